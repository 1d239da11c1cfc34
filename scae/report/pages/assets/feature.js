// The page of one feature.
"use strict";

const EDGES_SHOWN = 16;
const EXAMPLES_SHOWN = 8;
let pass_shown = null; // the pass that examples are of, kept from feature to feature

async function feature_page(site, feature) {
  const [index, own, text] = await Promise.all([index_of(site), feature_at(site, feature), texts()]);
  const meta = store.meta;
  pass_shown ??= meta.passes.length - 1;
  const label = index.labels[feature];
  const page = h("article", { class: "feature" },
    h("p", { class: "crumb muted small" }, h("a", { href: `#${encodeURIComponent(site_name(site))}` }, site_name(site)), ` / ${feature}`),
    h("h1", { dir: "auto" }, label ? label.label : [`Feature ${feature} of `, site_name(site)]),
    label && (label.detection !== undefined || label.fuzzing !== undefined)
      ? h("p", { class: "muted small" }, [["detection", label.detection], ["fuzzing", label.fuzzing]].filter(([, value]) => value !== undefined).map(([name, value]) => `${name} ${number(value)}`).join(" · "), " (scores of the label)") : null,
    index.state[feature] ? h("p", { class: "notice" }, h("strong", {}, STATES[index.state[feature]][0]), `. ${STATES[index.state[feature]][1]}.`) : null,
    h("div", { class: "head" }, numbers(index, feature), agreement(index, feature)));
  const [top, range] = [h("div"), h("div")];
  const draw_pass = () => {
    top.replaceChildren(top_part(own, index, feature, text));
    range.replaceChildren(...[range_part(own, index, feature, text)].filter(Boolean));
  };
  if (meta.passes.length > 1) {
    const buttons = meta.passes.map((name, i) => h("button", { type: "button", "aria-pressed": String(i === pass_shown), onclick: () => {
      pass_shown = i;
      buttons.forEach((button, j) => button.setAttribute("aria-pressed", String(j === i)));
      draw_pass();
    } }, name));
    page.append(h("div", { class: "passes", role: "group", "aria-label": "Pass that the examples are of" }, h("span", { class: "muted small" }, "Pass "), buttons));
  }
  page.append(h("div", { class: "columns" },
    h("div", { class: "wide" }, top),
    h("div", { class: "narrow" }, histogram(own, index, feature), words(own, text)),
  ));
  draw_pass();
  page.append(...edges_part(own, text), range, ...neighbours_part(own));
  return page;
}

function numbers(index, feature) {
  const rows = store.meta.passes.map((name, i) => ({ cells: [name, percent(index.rate[i][feature]), number(index.mean[i][feature]), number(index.max[i][feature])] }));
  return table({ headers: ["pass", "rate", "mean", "max"], left: 1, rows, sortable: false });
}

function agreement(index, feature) {
  if (!index.agreement) return null;
  return h("dl", { class: "agree" },
    h("div", {}, h("dt", {}, "Agreement of the passes"), h("dd", {}, number(index.agreement[feature]), h("span", { class: "muted small" }, " correlation"))),
    h("div", {}, h("dt", {}, "Tokens in common"), h("dd", {}, number(index.jaccard[feature]), h("span", { class: "muted small" }, " Jaccard"))));
}

/** The strongest examples of the pass that is on show. */
function top_part(own, index, feature, text) {
  const examples = own.top[pass_shown];
  if (!examples.length) return h("section", {}, h("h2", {}, "Top examples"), h("p", { class: "muted" }, `It does not fire in the ${store.meta.passes[pass_shown]} pass.`));
  const lines = (some) => example_list(text, some, index.max[pass_shown][feature], store.meta);
  const list = lines(examples.slice(0, EXAMPLES_SHOWN));
  const more = examples.length > EXAMPLES_SHOWN ? h("button", { type: "button", class: "more", onclick: () => {
    list.append(...lines(examples.slice(EXAMPLES_SHOWN)).children);
    more.remove();
  } }, `Show all ${examples.length}`) : null;
  return h("section", {}, h("h2", {}, "Top examples"), list, more);
}

/** Examples of weak activations too: from groups of equally many tokens, the strongest first. */
function range_part(own, index, feature, text) {
  const bands = own.bands[pass_shown];
  const titles = bands.length === 4 ? ["Strongest quarter", "Second quarter", "Third quarter", "Weakest quarter"] : bands.map((_, i) => `Part ${i + 1} of ${bands.length}`);
  if (!bands.some((examples) => examples.length)) return null;
  return h("section", {}, h("h2", {}, "Examples from its whole range"),
    h("p", { class: "muted small" }, "Drawn at random from groups of equally many of the tokens that it fires on."),
    h("div", { class: "two" }, bands.map((examples, i) => (examples.length
      ? h("div", {}, h("h3", {}, titles[i]), example_list(text, examples, index.max[pass_shown][feature], store.meta)) : null))));
}

/** Both passes have bins of their own, as far as each reaches: a plot each. */
function histogram(own, index, feature) {
  const plots = store.meta.passes.map((name, i) => {
    const counts = own.histogram[i];
    const most = index.max[i][feature];
    if (!most || !counts.some(Boolean)) return null;
    const edges = Array.from({ length: counts.length + 1 }, (_, k) => (most * k) / counts.length);
    return bar_plot({ title: `${name} pass`, edges, counts: { tokens: counts }, x_title: "activation", height: 130 }, { as_table: false });
  }).filter(Boolean);
  return plots.length ? h("section", {}, h("h2", {}, "Activations"), plots) : null;
}

function words(own, text) {
  const list = (title, { word, value }) => {
    const most = Math.max(...value.map((one) => Math.abs(one ?? 0)), 1e-9);
    return h("div", {}, h("h3", {}, title), h("ul", { class: "words" }, word.map((one, i) => (one < 0 ? null : h("li", {},
      h("span", { class: "mono token", dir: "auto", style: { backgroundColor: `rgba(var(--highlight), ${((0.4 * Math.abs(value[i] ?? 0)) / most).toFixed(3)})` } }, visible(text.vocabulary[one])),
      h("span", { class: "muted" }, signed(value[i])))))));
  };
  if (!own.promoted?.word.some((one) => one >= 0)) return null;
  return h("section", {}, h("h2", {}, "What it writes to the logits"), h("div", { class: "two" }, list("Promotes", own.promoted), list("Suppresses", own.suppressed)));
}

/** A link to a feature, named when the list of its site is there. */
function feature_link(site, feature, text) {
  const at = `${site_name(site)}/${feature}`;
  if (!has_page(site)) {
    return h("span", { class: "ref" }, h("span", { class: "at" }, site_name(site)), h("span", { class: "name mono", dir: "auto" }, text ? visible(text.vocabulary[feature]) : feature));
  }
  const name = h("span", { class: "name muted", dir: "auto" });
  index_of(site).then((index) => {
    name.textContent = index.name(feature) || STATES[index.state[feature]]?.[0] || "–";
    name.classList.toggle("mono", !(feature in index.labels));
  });
  return h("a", { class: "ref", href: address(site, feature) }, h("span", { class: "at" }, at), name);
}

function edges_part(own, text) {
  if (!own.inputs) return [];
  const constant = own.constant === undefined || own.constant === null ? null
    : h("p", { class: "muted small" }, `Over the tokens it fires on, its pre-activation is ${signed(own.total)} in the mean; ${signed(own.constant)} of that comes along no connection (embedding and biases).`);
  return [h("section", { class: "edges" },
    h("h2", {}, "Circuit"),
    h("p", { class: "muted small" }, "Contribution: mean over the tokens at which the downstream feature fires, exact along the connection. Weight: the virtual weight, heads summed."),
    constant,
    h("div", { class: "two" }, edge_table("Inputs", "reads from", own.inputs, text), edge_table("Outputs", "is read by", own.outputs, text)))];
}

function edge_table(title, verb, edges, text) {
  const total = edges.site.length;
  const [weight_unit, mean_unit] = edges.units;
  const most = Math.max(...edges.mean.map(Math.abs), 1);
  const row = (i) => {
    const mean = edges.mean[i] * mean_unit;
    const share = (50 * Math.abs(edges.mean[i])) / most;
    return h("tr", {},
      h("th", { scope: "row", class: "words" }, feature_link(edges.site[i], edges.feature[i], text)),
      h("td", {}, signed(mean)),
      h("td", { class: "bar-cell", "aria-hidden": "true" }, h("span", { class: mean < 0 ? "bar-mark negative" : "bar-mark", style: { width: `${share}%`, [mean < 0 ? "right" : "left"]: "50%" } })),
      h("td", {}, signed(edges.weight[i] * weight_unit)));
  };
  const body = h("tbody");
  const add = (from, to) => { for (let i = from; i < to; i++) body.append(row(i)); };
  add(0, Math.min(EDGES_SHOWN, total));
  const more = total > EDGES_SHOWN ? h("button", { type: "button", class: "more", onclick: () => { add(EDGES_SHOWN, total); more.remove(); } }, `Show all ${total.toLocaleString("en")}`) : null;
  return h("div", {}, h("h3", {}, `${title} `, h("span", { class: "muted" }, `${verb} ${total.toLocaleString("en")}`)),
    total ? h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["feature", "contribution", "", "weight"].map((name, i) => (name
      ? h("th", { scope: "col", class: i ? null : "words" }, name) : h("td", { class: "bar-cell", "aria-hidden": "true" }))))), body)) : h("p", { class: "muted" }, "None."),
    more);
}

const MEASURES = { jaccard: "Jaccard", pmi: "PMI" };

function neighbours_part(own) {
  if (!own.similar) return [];
  const list = (title, kind, measures) => h("div", {}, h("h3", {}, title), kind.site.length ? table_of(kind, measures) : h("p", { class: "muted" }, "None."));
  const table_of = (kind, measures) => table({
    headers: ["feature", ...measures.map((name) => MEASURES[name] ?? name)], left: 1, sortable: false,
    rows: kind.site.map((site, i) => ({ cells: [feature_link(site, kind.feature[i]), ...measures.map((name) => number(kind[name][i]))] })),
  });
  return [h("section", {}, h("h2", {}, "Neighbours"),
    own.cluster >= 0 && store.meta.clusters ? h("p", {}, "Fires together with others in ", h("a", { href: `#cluster/${own.cluster}` }, `cluster ${own.cluster}`), ".") : null,
    h("div", { class: "two" }, list("Similar decoder rows", own.similar, ["cosine"]), list("Fires on the same tokens", own.coactive, ["jaccard", "correlation", "pmi"])))];
}

/** The page of a cluster: its members and the tokens at which most of them fire. */
async function cluster_page(id) {
  const [clusters, text] = await Promise.all([load(`${root}/clusters.js`), texts()]);
  const cluster = clusters.find((one) => one.id === id);
  if (!cluster) return h("p", { class: "notice", role: "alert" }, `There is no cluster ${id}.`);
  const more = cluster.size > cluster.members.length ? `, ${cluster.members.length} of them below` : "";
  return h("article", { class: "feature" },
    h("h1", {}, `Cluster ${id}`), h("p", { class: "muted" }, `${cluster.size.toLocaleString("en")} features that fire on the same tokens${more}.`),
    h("section", {}, h("h2", {}, "Members"), h("ul", { class: "members" }, cluster.members.map(([site, feature]) => h("li", {}, feature_link(site, feature))))),
    cluster.examples.length ? h("section", {}, h("h2", {}, "Shared examples"), h("p", { class: "muted small" }, "The underlined token is where they fire."),
      h("ol", { class: "examples" }, cluster.examples.map((place) => h("li", {}, example_line(text, [place], 0, store.meta))))) : null);
}

/** What is known of a site as a whole. */
function site_page(site) {
  const told = store.meta.sites[site];
  const names = [["L0", "l0", 1], ["L1", "l1", 2], ["FVU", "fvu", 3], ["explained variance", "explained_variance", 3], ["cosine", "cosine", 3], ["MSE", "mse", 4],
    ["never fired", "never_fired", 0], ["plain only", "plain_only", 0], ["no input", "no_input", 0]];
  const passes = store.meta.passes.filter((name) => told[name]);
  const rows = names.filter(([, key]) => passes.some((name) => typeof told[name][key] === "number"))
    .map(([name, key, digits]) => ({ cells: [name, ...passes.map((pass) => number(told[pass][key], digits))] }));
  return h("article", { class: "feature" }, h("h1", {}, `Site ${told.site}`),
    h("p", { class: "muted" }, `${told.features.toLocaleString("en")} features, on ${store.meta.n_live.toLocaleString("en")} tokens of held-out text.`),
    rows.length ? table({ headers: ["", ...passes], left: 1, rows, sortable: false }) : null,
    h("p", { class: "muted small keys" }, h("kbd", {}, "j"), " ", h("kbd", {}, "k"), " next and previous feature, ", h("kbd", {}, "/"), " search"));
}
