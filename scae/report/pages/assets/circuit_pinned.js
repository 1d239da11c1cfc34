// The pinned circuit below the graph: its drawing, its nodes with their groups, and what one can save of it.
"use strict";

class Pinned {
  /** on: {select(node), pin(node), point(node or null)} */
  constructor(element, choices, on) {
    Object.assign(this, { element, choices, on, chosen: new Set() });
  }

  draw() {
    const { pinned } = this.choices;
    this.element.hidden = pinned.size === 0;
    if (!pinned.size) {
      this.element.replaceChildren();
      return;
    }
    this.chosen = new Set([...this.chosen].filter((node) => pinned.has(node)));
    this.svg = drawSubgraph(subgraphOf(this.choices), this.choices);
    this.element.replaceChildren(this.head(), h("div", { class: "pinned-body" }, h("div", { class: "drawing", tabindex: "0", role: "group", "aria-label": "Drawing of the pinned circuit" }, this.svg), this.nodes()));
  }

  head() {
    const name = visible(String(this.choices.graph.file.metadata.slug ?? "circuit")).replaceAll(/[^\w.-]+/g, "-");
    const button = (text, onclick, title) => h("button", { type: "button", onclick, title }, text);
    return h("header", { class: "pinned-head" },
      h("h2", {}, "Pinned circuit ", h("span", { class: "muted" }, this.choices.pinned.size)),
      h("div", { class: "actions" },
        button("JSON", () => downloadJson(`${name}-pinned.json`, subgraphFile(this.choices)), "Pinned nodes and the edges between them, in the same format as graph.json"),
        button("SVG", () => downloadSvg(`${name}-pinned.svg`, this.svg), "The drawing"),
        button("PNG", () => downloadPng(`${name}-pinned.png`, this.svg), "The drawing"),
        button("Unpin all", () => this.choices.unpinAll())));
  }

  /** Nodes to tick and to name as one. */
  nodes() {
    const name = h("input", { type: "text", class: "group-name", placeholder: "name", "aria-label": "Name of the group", maxlength: 60 });
    const form = h("form", { class: "grouping", onsubmit: (event) => {
      event.preventDefault();
      const nodes = [...this.chosen];
      this.chosen.clear();
      if (nodes.length) this.choices.group(name.value, nodes);
    } }, name, h("button", { type: "submit", title: "Ticked nodes become one; without a name they leave their group" }, "Group ticked"));
    return h("div", { class: "pinned-nodes" }, h("ul", {}, [...this.choices.pinned].map((node) => this.line(node))), form);
  }

  line(node) {
    const group = this.choices.groupOf(node);
    const tick = h("input", { type: "checkbox", "aria-label": `Tick ${node.label}`, onchange: () => (tick.checked ? this.chosen.add(node) : this.chosen.delete(node)) });
    tick.checked = this.chosen.has(node);
    return h("li", { onpointerenter: () => this.on.point(node), onpointerleave: () => this.on.point(null) },
      tick,
      h("button", { type: "button", class: "plain-button name", onclick: () => this.on.select(node) }, glyph(node.kind), h("span", {}, node.label), h("span", { class: "muted" }, where(node, this.choices.graph))),
      group && h("span", { class: "group" }, group.name),
      h("button", { type: "button", class: "plain-button close", "aria-label": `Unpin ${node.label}`, onclick: () => this.on.pin(node) }, "×"));
  }
}
