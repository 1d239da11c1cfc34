// The page of a circuit: puts together what the other files make.
"use strict";

let view = null; // the page, for tests and for the curious
const LONGEST_HEAD = 76; // px of a token above its column

class Page {
  constructor(graph, { features }) {
    this.graph = graph;
    this.choices = new Choices(graph);
    this.pointed = null;
    this.found = new Set();
    const at = (selector) => document.querySelector(selector);
    this.parts = { pane: at(".pane"), sheet: at(".sheet"), heads: at(".heads"), sites: at(".sites"), stage: at(".stage"), rules: at(".rules") };
    const on = {
      select: (node) => this.choices.select(node === this.choices.selected ? null : node),
      pin: (node) => this.choices.pin(node),
      point: (node) => this.point(node),
      leave: () => this.choices.select(null),
      found: (nodes) => {
        this.found = nodes;
        this.light();
      },
    };
    const go = { ...on, select: (node) => this.go(node), point: (node) => this.point(node, false) };
    this.tip = new Tip(at(".tip"), graph);
    this.edges = new Edges(at("canvas.all"), at("canvas.focus"), graph.columns > 1);
    this.nodes = new Nodes(at("svg.nodes"), on);
    this.panel = new Panel(at(".panel"), graph, this.choices, go, features);
    this.pinned = new Pinned(at(".pinned"), this.choices, go);
    this.search = new Search(at("#search"), at(".results"), graph, go);
    this.sliders();
    this.choices.onChange(() => this.draw());
    this.draw();
    this.show(this.choices.selected ?? this.nodes.order.at(-1));
    new ResizeObserver(() => this.draw()).observe(this.parts.pane);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw(true));
    addEventListener("keydown", (event) => event.key === "Escape" && !event.defaultPrevented && this.choices.select(null));
  }

  sliders() {
    for (const key of ["nodes", "edges"]) {
      const slider = document.getElementById(key);
      slider.addEventListener("input", () => this.choices.keep(key, Number(slider.value)));
    }
    document.querySelector(".tools").addEventListener("submit", (event) => event.preventDefault());
  }

  /** From a list to the node: selected, and in sight. */
  go(node) {
    this.choices.select(node);
    if (node) this.show(node);
  }

  show(node) {
    if (!node || node.x === undefined) return;
    const { pane, sites, heads } = this.parts;
    const room = { x: pane.clientWidth - sites.offsetWidth, y: pane.clientHeight - heads.offsetHeight };
    const outside = (at, start, size) => at < start + 24 || at > start + size - 24;
    if (outside(node.x, pane.scrollLeft, room.x)) pane.scrollLeft = node.x - room.x * 0.6;
    if (outside(node.y, pane.scrollTop, room.y)) pane.scrollTop = node.y - room.y * 0.5;
  }

  /** Everything anew, as far as it has changed. */
  draw(force = false) {
    const { shares, selected, pinned } = this.choices;
    for (const key of ["nodes", "edges"]) {
      document.getElementById(key).value = String(shares[key]);
      document.querySelector(`output[for=${key}]`).textContent = `${Math.round(100 * shares[key])} %`;
    }
    this.panel.draw();
    this.pinned.draw();
    const { clientWidth, clientHeight } = this.parts.pane;
    const always = (node) => node.kind === "logit" || node === selected || pinned.has(node);
    const nodes = strongest(this.graph.nodes, shares.nodes, always);
    const ends = (edge) => nodes.has(edge.source) && nodes.has(edge.target);
    const key = [clientWidth, clientHeight, shares.edges, ...[...nodes].map((node) => node.id)].join(" ");
    if (key !== this.drawn || force) {
      this.drawn = key;
      this.visible = nodes;
      this.kept = strongest(this.graph.edges.filter(ends), shares.edges, () => false);
      this.place([...nodes], clientWidth, clientHeight);
    }
    this.light();
  }

  place(nodes, width, height) {
    const { sheet, heads, sites, rules } = this.parts;
    const tokens = this.graph.global ? [""] : Array.from({ length: this.graph.columns }, (_, c) => visible(String(this.graph.tokens[c] ?? "")));
    const measure = document.createElement("canvas").getContext("2d");
    measure.font = `12px ${look("mono")}`;
    const widths = tokens.map((token) => Math.min(LONGEST_HEAD, measure.measureText(token).width));
    sites.replaceChildren(...this.graph.rows.map((name) => h("div", {}, name)));
    const layout = layOut(this.graph, nodes, widths, width - sites.offsetWidth, height - heads.offsetHeight);
    heads.replaceChildren(...layout.columns.map(({ x, width: own }, c) => this.graph.global ? "" : h("div", { title: `${c}: ${tokens[c]}`, style: { left: `${x}px`, width: `${own}px` } }, h("span", { class: "token-text" }, tokens[c]), h("span", { class: "number" }, c))));
    [...sites.children].forEach((name, row) => Object.assign(name.style, { top: `${layout.rows[row].top}px`, height: `${layout.rows[row].height}px` }));
    rules.replaceChildren(...layout.rows.map(({ top, height: own }, row) => h("div", { class: this.graph.rows[row].endsWith(".attn") ? "row attn" : "row", style: { top: `${top}px`, height: `${own}px` } })), ...layout.columns.slice(1).map(({ x }) => h("div", { class: "column", style: { left: `${x}px` } })));
    sheet.style.setProperty("--width", `${layout.width}px`);
    sheet.style.setProperty("--height", `${layout.height}px`);
    this.edges.resize(layout.width, layout.height);
    this.edges.drawAll([...this.kept]);
    this.nodes.draw(nodes, layout.width, layout.height);
  }

  point(node, tip = true) {
    if (node === this.pointed) return;
    this.pointed = node;
    this.light();
    const box = node && tip ? this.nodes.box(node) : null;
    if (box) this.tip.show(node, box);
    else this.tip.hide();
  }

  /** What stands out: the node pointed at or selected with its edges, then the pinned ones with theirs. */
  light() {
    const { selected, pinned } = this.choices;
    const node = this.pointed ?? selected;
    const shown = (edge) => this.visible.has(edge.source) && this.visible.has(edge.target);
    const strong = node ? [...node.inputs, ...node.outputs].filter(shown) : [];
    const between = edgesBetween(this.choices);
    const weak = node ? between : [...new Set([...pinned].flatMap((each) => [...each.inputs, ...each.outputs]))].filter(shown);
    const near = new Set(node ? [node, ...strong.flatMap((edge) => [edge.source, edge.target])] : this.found);
    if (!node && !near.size && pinned.size) for (const edge of weak) near.add(edge.source).add(edge.target);
    if (near.size) pinned.forEach((each) => near.add(each));
    this.edges.drawFocus(strong, weak);
    this.parts.stage.classList.toggle("lit", strong.length + weak.length > 0);
    this.nodes.show({
      near,
      selected: new Set([selected]),
      pinned: new Set(pinned), // as they are now
      pointed: new Set([this.pointed]),
      found: this.found,
    });
  }
}

function legend() {
  const line = (name, text) => h("span", {}, s("svg", { class: `sample ${name}`, viewBox: "0 0 26 8", width: 26, height: 8, "aria-hidden": "true" }, s("path", { d: "M1,4H25" })), text);
  const kinds = Object.entries(KIND_NAMES).map(([kind, name]) => h("span", {}, glyph(kind), name));
  document.querySelector(".legend").append(...kinds, line("positive", "positive"), line("negative", "negative"));
}

/** The head of the page. */
function introduce(graph, { report, features }) {
  const { metadata } = graph.file;
  const links = [["Report", report], ["Features", features]].filter(([, address]) => address);
  document.querySelector(".pages").append(...links.map(([name, href]) => h("a", { href }, name)));
  const name = visible(String(metadata.prompt ?? metadata.slug ?? "Circuit")).trim();
  document.title = `${name.slice(0, 60)} · circuit`;
  document.querySelector(".title").textContent = name;
  document.querySelector(".title").title = name;
  const known = [graph.global ? graph.ours.weight && `${graph.ours.weight}s` : graph.ours.pass && `${graph.ours.pass} pass`, `${graph.nodes.length} nodes`, `${graph.edges.length} edges`];
  document.querySelector(".about").textContent = known.filter(Boolean).join(" · ");
}

async function start() {
  const places = document.body.dataset;
  const file = await given("graph");
  if (!file) throw new Error("graph.js is missing beside this page, or holds no graph");
  const labels = places.labels ? (await load(places.labels)).labels : {};
  const graph = readGraph(file, labels);
  introduce(graph, places);
  legend();
  view = new Page(graph, places);
}

start().catch((error) => {
  document.querySelector(".desk").replaceWith(h("p", { class: "notice" }, error.message));
  throw error;
});
