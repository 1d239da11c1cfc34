// Finding nodes by what is written of them: label, site/feature, kind, token.
"use strict";

const MOST_FOUND = 30;

/** Nodes in which every word of the query occurs, the most influential first. */
function findNodes(graph, query) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return [];
  const hits = graph.nodes.filter((node) => {
    const text = `${node.label} ${node.place} ${KIND_NAMES[node.kind]} ${where(node, graph)}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
  return hits.sort((one, other) => other.influence - one.influence);
}

class Search {
  /** on: {select(node), point(node or null), found(set of nodes)} */
  constructor(input, results, graph, on) {
    Object.assign(this, { input, results, graph, on });
    input.addEventListener("input", () => this.look());
    input.addEventListener("keydown", (event) => this.key(event));
    results.addEventListener("keydown", (event) => this.key(event));
    addEventListener("keydown", (event) => {
      if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.closest("input, textarea")) return;
      event.preventDefault();
      input.focus();
    });
    addEventListener("pointerdown", (event) => {
      if (!event.target.closest(".search")) results.hidden = true;
    });
    input.addEventListener("focus", () => (results.hidden = !results.childElementCount));
  }

  look() {
    const hits = findNodes(this.graph, this.input.value);
    this.on.found(new Set(hits));
    const on = { ...this.on, select: (node) => this.choose(node) };
    const lines = hits.slice(0, MOST_FOUND).map((node) => nodeLine(node, this.graph, on));
    if (hits.length > MOST_FOUND) lines.push(h("li", { class: "muted small" }, `${hits.length - MOST_FOUND} more`));
    if (!hits.length && this.input.value.trim()) lines.push(h("li", { class: "muted small" }, "no node"));
    this.results.replaceChildren(...lines);
    this.results.hidden = !lines.length;
  }

  choose(node) {
    this.clear();
    this.on.select(node);
  }

  clear() {
    this.input.value = "";
    this.look();
  }

  key(event) {
    const buttons = [...this.results.querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement);
    if (event.key === "Escape") {
      this.clear();
      this.input.blur();
    } else if (event.key === "ArrowDown") buttons[Math.min(at + 1, buttons.length - 1)]?.focus();
    else if (event.key === "ArrowUp") (buttons[at - 1] ?? this.input).focus();
    else if (event.key === "Enter" && event.target === this.input) buttons[0]?.click();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
