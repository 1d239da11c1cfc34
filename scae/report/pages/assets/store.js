// What the pages of features read: loaded when it is asked for, each file once.
"use strict";

const root = document.documentElement.dataset.root;
const store = { meta: null, texts: null, indexes: new Map() };

/** The text of the examples: {context, vocabulary, ids, no_text: Set, begins: Map(place -> document)}. */
async function texts() {
  if (!store.texts) {
    const data = await load(`${root}/tokens.js`);
    const [starts, documents] = data.segments;
    store.texts = { ...data, no_text: new Set(data.no_text), starts, documents, begins: new Set(starts) };
  }
  return store.texts;
}

/** Which document a place belongs to. */
function document_at(text, place) {
  let [low, high] = [0, text.starts.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (text.starts[middle] <= place) low = middle;
    else high = middle - 1;
  }
  return text.documents[low];
}

/** The columns of the list of a site, by its number; what a list searches is prepared once. */
async function index_of(site) {
  if (!store.indexes.has(site)) {
    const [data, text] = await Promise.all([load(`${root}/site${site}/index.js`), texts()]);
    data.name = (feature) => data.labels[feature]?.label ?? top_token(data, text, feature);
    store.indexes.set(site, data);
  }
  return store.indexes.get(site);
}

function top_token(index, text, feature) {
  const word = index.top[feature];
  return word < 0 ? "" : visible(text.vocabulary[word]);
}

async function feature_at(site, feature) {
  const shard = Math.floor(feature / store.meta.shard);
  const features = await load(`${root}/site${site}/${shard}.js`);
  return features[feature % store.meta.shard];
}

const STATES = [
  ["", ""],
  ["never fires", "Never fired on this text, in no pass"],
  ["plain only", "Fires in the plain pass, not in the pruned one"],
  ["no input", "Fires, without any incoming connection"],
];

const site_name = (site) => store.meta.sites[site].site;
const address = (site, feature) => `#${encodeURIComponent(site_name(site))}/${feature}`;
const has_page = (site) => store.meta.listed.includes(site);
const percent = (share) => share === null ? "–" : share === 0 ? "0 %" : share < 5e-5 ? "<0.01 %" : `${(100 * share).toFixed(share < 0.0995 ? 2 : 1)} %`;
/** Three digits, with its sign: of weights and contributions, which may be of any size. */
function signed(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const text = size >= 100 ? size.toFixed(0) : size >= 10 ? size.toFixed(1) : size >= 1 ? size.toFixed(2)
    : size >= 0.001 || size === 0 ? size.toFixed(Math.min(5, 2 - Math.floor(Math.log10(size || 1)))) : size.toExponential(1);
  return `${value > 0 ? "+" : value < 0 ? "−" : ""}${text}`;
}
const number = (value, digits = 2) => value === null || value === undefined ? "–" : value.toFixed(digits);
