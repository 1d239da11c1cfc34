// The pages of features: what the address says is shown. #2.mlp/17 a feature, #2.mlp a site, #* all sites, #cluster/3.
"use strict";

const EVERY = "*";
const split = document.querySelector(".split");
const main = document.getElementById("main");
let list = null;
let listed = null; // the site that the list shows, or EVERY
let turn = 0; // counts what was asked for: an answer that comes late is not shown

function route() {
  const [site, feature] = decodeURIComponent(location.hash.slice(1)).split("/").reduce(([head, last], part, i, parts) =>
    (i === parts.length - 1 && i > 0 ? [head, part] : [head === null ? part : `${head}/${part}`, last]), [null, null]);
  if (site === "cluster" && feature !== null) return { kind: "cluster", id: Number(feature) };
  if (site === EVERY) return { kind: "every" };
  const number = store.meta.listed.find((one) => site_name(one) === site);
  if (number === undefined) return site ? { kind: "unknown", what: location.hash.slice(1) } : { kind: "start" };
  if (feature === null) return { kind: "site", site: number };
  const known = /^\d+$/.test(feature) && Number(feature) < store.meta.sites[number].features;
  return known ? { kind: "feature", site: number, feature: Number(feature) } : { kind: "unknown", what: location.hash.slice(1) };
}

async function fill_list(site) {
  if (listed === site || (listed === EVERY && site !== null && !list_follows)) return;
  listed = site;
  const sites = site === EVERY ? store.meta.listed : [site];
  list.site.value = site === EVERY ? EVERY : String(site);
  const indexes = await Promise.all(sites.map(index_of));
  if (listed === site) list.fill(sites, indexes);
}

let list_follows = true; // whether the list goes to the site of the feature on show; not where all sites are listed

async function show() {
  const mine = ++turn;
  const at = route();
  const finished = (page, title) => {
    if (mine !== turn) return;
    main.replaceChildren(page);
    main.scrollTop = 0;
    window.scrollTo(0, 0);
    document.title = `${title} · ${store.meta.run}`;
    document.body.dataset.ready = location.hash || "#";
  };
  split.classList.toggle("reading", at.kind === "feature" || at.kind === "cluster");
  try {
    if (at.kind === "feature") {
      const [page] = await Promise.all([feature_page(at.site, at.feature), fill_list(at.site)]);
      if (mine !== turn) return;
      finished(page, `${site_name(at.site)}/${at.feature}`);
      list.select(at.site, at.feature);
      return;
    }
    list.select(null);
    if (at.kind === "cluster") {
      if (listed === null) await fill_list(store.meta.listed[0]);
      finished(await cluster_page(at.id), `cluster ${at.id}`);
      return;
    }
    list_follows = at.kind !== "every";
    if (at.kind === "every") await fill_list(EVERY);
    else await fill_list(at.site ?? store.meta.listed[0]);
    if (at.kind === "unknown") finished(h("p", { class: "notice", role: "alert" }, `There is no feature or site ${at.what} here.`), "features");
    else if (at.kind === "every") finished(every_page(), "all sites");
    else finished(site_page(at.site ?? store.meta.listed[0]), site_name(at.site ?? store.meta.listed[0]));
  } catch (error) {
    finished(h("p", { class: "notice", role: "alert" }, error.message), "features");
  }
}

function every_page() {
  const count = store.meta.listed.reduce((sum, site) => sum + store.meta.sites[site].features, 0);
  return h("article", { class: "feature" }, h("h1", {}, "All sites"), h("p", { class: "muted" }, `${count.toLocaleString("en")} features of ${store.meta.listed.length} sites.`));
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest("input, select, textarea");
  if (event.key === "Escape" && typing) return typing.blur();
  if (typing) return;
  if (event.key === "/") {
    event.preventDefault();
    split.classList.remove("reading");
    list.search.focus();
    return;
  }
  const by = { j: 1, ArrowDown: 1, ArrowRight: 1, k: -1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
  const scrolls = event.key.startsWith("Arrow") && !(event.key === "ArrowLeft" || event.key === "ArrowRight" || event.target.closest(".side"));
  if (!by || scrolls) return;
  const row = list.step(by);
  if (!row) return;
  event.preventDefault();
  location.hash = address(row.site, row.feature);
}

async function start() {
  store.meta = await load(`${root}/features.js`);
  document.querySelector(".bar").append(h("a", { class: "name", href: "report.html" }, store.meta.run), h("nav", { "aria-label": "Pages" },
    h("a", { href: "report.html" }, "Report"), h("a", { href: "#", "aria-current": "page" }, "Features")));
  list = new FeatureList(document.querySelector(".side"), { onsite: (value) => { location.hash = value === EVERY ? `#${EVERY}` : `#${encodeURIComponent(site_name(Number(value)))}`; } });
  list.site.append(...store.meta.listed.map((site) => h("option", { value: site }, site_name(site))), h("option", { value: EVERY }, "all sites"));
  window.addEventListener("hashchange", show);
  document.addEventListener("keydown", keys);
  await show();
}

start().catch((error) => main.replaceChildren(h("p", { class: "notice", role: "alert" }, error.message)));
