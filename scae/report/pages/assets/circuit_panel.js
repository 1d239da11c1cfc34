// The panel beside the graph: the node that is selected, or, where none is, what the graph is about.
"use strict";

const FIRST = 40; // lines of a list until one asks for all
const FEATURES_FIRST = 10;
const KEYS = [["arrows", "walk from node to node"], ["Enter", "select"], ["p", "pin"], ["Esc", "deselect"], ["/", "find"]];
const SCORES = {
  replacement: "of the influence of tokens and errors, the share that tokens have",
  completeness: "of what nodes read, weighted by influence, the share that is no error",
};

class Panel {
  /** on: {select(node), pin(node), point(node or null)}; features: address of the feature pages, "" where there are none. */
  constructor(element, graph, choices, on, features) {
    Object.assign(this, { element, graph, choices, on, features });
  }

  draw() {
    const node = this.choices.selected;
    const made = node ? this.ofNode(node) : this.ofGraph();
    this.element.replaceChildren(...made.flat(Infinity).filter(Boolean));
    this.element.scrollTop = 0;
  }

  ofNode(node) {
    const what = [KIND_NAMES[node.kind], isFeature(node) && node.label !== node.place ? node.place : "", where(node, this.graph)];
    return [
      h("header", {}, h("h2", {}, glyph(node.kind), h("span", {}, node.label)), this.closer()),
      h("p", { class: "muted" }, what.filter(Boolean).join(" ")),
      h("div", { class: "actions" }, this.pinner(node), this.link(node)),
      facts(factsOf(node, this.graph).map(([name, value, why]) => [name, value, why])),
      this.edges("Inputs", node.inputs, (edge) => edge.source),
      this.edges("Outputs", node.outputs, (edge) => edge.target),
    ];
  }

  closer() {
    const attributes = { type: "button", class: "plain-button close", "aria-label": "Deselect", title: "Deselect (Esc)" };
    return h("button", { ...attributes, onclick: () => this.on.select(null) }, "×");
  }

  pinner(node) {
    const pinned = this.choices.pinned.has(node);
    const attributes = { type: "button", class: "pin", "aria-pressed": String(pinned) };
    return h("button", { ...attributes, onclick: () => this.on.pin(node) }, pinned ? "Pinned" : "Pin");
  }

  link(node) {
    if (!isFeature(node) || node.site === null || !this.features) return null;
    return h("a", { class: "feature-link", href: `${this.features}#${encodeURI(`${node.site}/${node.feature}`)}` }, "Feature page");
  }

  /** Edges by size; the bar behind a line is the share that its edge has of all that the target reads. */
  edges(name, edges, far) {
    const sorted = edges.toSorted((one, other) => Math.abs(other.weight) - Math.abs(one.weight));
    const line = (edge) => {
      const tone = edge.weight < 0 ? "negative" : "positive";
      return nodeLine(far(edge), this.graph, this.on, { value: signed(edge.weight), share: edge.share, tone });
    };
    return this.list(name, sorted, line, edges.length ? null : "none in this graph");
  }

  list(name, items, line, none) {
    const lines = h("ol", { class: "lines" }, items.slice(0, FIRST).map(line));
    const rest = items.slice(FIRST);
    const more = rest.length > 0 && h("button", { type: "button", class: "more" }, `Show all ${items.length}`);
    if (more) {
      more.addEventListener("click", () => {
        lines.append(...rest.map(line));
        more.remove();
      });
    }
    const count = h("span", { class: "muted" }, items.length);
    return h("section", { class: "list", "aria-label": name }, h("h3", {}, `${name} `, count), none && h("p", { class: "muted small" }, none), lines, more);
  }

  ofGraph() {
    const { graph } = this;
    const prompt = graph.global ? String(graph.file.metadata.prompt ?? "") : graph.tokens.join("");
    return [
      h("header", {}, h("h2", {}, graph.global ? "Connections of a feature" : "Prompt")),
      h("p", { class: "text prompt" }, visible(prompt)),
      h("p", { class: "muted small" }, "Point at a node to see what it reads and writes. Click to keep it here; pin nodes to draw them as a circuit below the graph."),
      this.logits(),
      this.strongest(),
      this.counts(),
      this.keys(),
    ];
  }

  logits() {
    const logits = this.graph.nodes.filter((node) => node.kind === "logit");
    if (!logits.length) return null;
    logits.sort((one, other) => (other.probability ?? 0) - (one.probability ?? 0));
    const line = (node) => nodeLine(node, this.graph, this.on, { value: percent(node.probability ?? 0), share: node.probability ?? 0 });
    return this.list("Next token", logits, line, null);
  }

  strongest() {
    const features = this.graph.nodes.filter(isFeature).sort((one, other) => other.influence - one.influence);
    if (!features.length) return null;
    const line = (node) => nodeLine(node, this.graph, this.on, { value: percent(node.influence), share: node.influence });
    return this.list("Most influential features", features.slice(0, FEATURES_FIRST), line, null);
  }

  counts() {
    const { nodes, edges, ours } = this.graph;
    const rows = Object.keys(KIND_NAMES).map((kind) => [[glyph(kind), KIND_NAMES[kind]], nodes.filter((node) => node.kind === kind).length]);
    const exactness = number(ours.exactness), scores = ours.scores ?? {};
    const why = "the largest difference between a pre-activation and the sum of the edges into it, before pruning";
    return h("section", { class: "list", "aria-label": "In this graph" }, h("h3", {}, "In this graph"), facts([
      ...rows.filter(([, count]) => count > 0),
      ["edges", edges.length],
      ...(exactness === null ? [] : [["inexactness", figure(exactness), why]]),
      ...Object.entries(SCORES).filter(([name]) => number(scores[name]) !== null).map(([name, what]) => [name, percent(scores[name]), what]),
    ]));
  }

  keys() {
    const rows = KEYS.map(([key, what]) => [h("kbd", {}, key), what]);
    return h("details", { class: "keys small" }, h("summary", {}, "Keys"), facts([...rows, [[h("kbd", {}, "Shift"), " click"], "pin"]]));
  }
}

/** Names and values in two columns: [[name, value, explanation], ...] */
function facts(rows) {
  return h("dl", { class: "facts" }, rows.map(([name, value, why]) => [h("dt", { title: why }, name), h("dd", {}, value)]));
}
