// Nodes as SVG marks: pointed at, clicked, walked with the arrow keys. One of them is in the order of Tab.
"use strict";

const RADIUS = { least: 2.6, most: 6.2 };

class Nodes {
  /** on: {point(node or null), select(node), pin(node), leave()}. */
  constructor(svg, on) {
    Object.assign(this, { svg, on, elements: new Map(), nodeOf: new Map(), current: null, shown: {} });
    svg.addEventListener("pointerover", (event) => this.point(event));
    svg.addEventListener("pointerleave", () => on.point(null));
    svg.addEventListener("click", (event) => {
      const node = this.under(event);
      if (node) this.focus(node);
      if (node && event.shiftKey) on.pin(node);
      else on.select(node);
      if (event.pointerType === "touch") on.point(node); // there is no pointing before
    });
    svg.addEventListener("focusin", (event) => this.under(event) && on.point(this.under(event)));
    svg.addEventListener("focusout", () => on.point(null));
    svg.addEventListener("keydown", (event) => this.key(event));
  }

  under(event) {
    return this.nodeOf.get(event.target.closest("g.node")) ?? null;
  }

  point(event) {
    if (event.pointerType !== "touch") this.on.point(this.under(event));
  }

  /** Draw these nodes, which stand where the layout has put them. */
  draw(nodes, width, height) {
    const focused = this.svg.contains(document.activeElement);
    this.elements.clear();
    this.nodeOf = new Map();
    this.shown = {};
    const most = Math.sqrt(Math.max(...nodes.filter(isFeature).map((node) => node.influence), 1e-12));
    const made = nodes.map((node) => {
      const strength = isFeature(node) ? Math.min(1, Math.sqrt(node.influence) / most) : 0.6;
      const element = s(
        "g",
        { class: `node ${node.kind}`, "data-id": node.id, transform: `translate(${node.x},${node.y})`, role: "button", tabindex: "-1", "aria-label": spoken(node) },
        s("rect", { class: "hit", x: -SPACING / 2, y: -SPACING / 2, width: SPACING, height: SPACING }),
        s("circle", { class: "ring", r: 8 }),
        mark(node.kind, RADIUS.least + (RADIUS.most - RADIUS.least) * strength),
      );
      element.style.setProperty("--strength", String(0.4 + 0.6 * strength));
      this.elements.set(node, element);
      this.nodeOf.set(element, node);
      return element;
    });
    this.svg.replaceChildren(...made);
    for (const [name, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` })) this.svg.setAttribute(name, value);
    this.order = nodes.toSorted((one, other) => one.row - other.row || one.x - other.x || one.y - other.y);
    if (!this.elements.has(this.current)) this.current = this.order.at(-1) ?? null;
    this.elements.get(this.current)?.setAttribute("tabindex", "0");
    if (focused) this.elements.get(this.current)?.focus({ preventScroll: true });
  }

  /** classes: name -> set of nodes that have it. Only what has changed is touched: this runs at every move of the pointer. */
  show(classes) {
    for (const [name, members] of Object.entries(classes)) {
      const before = this.shown[name] ?? new Set();
      for (const node of before) if (!members.has(node)) this.elements.get(node)?.classList.remove(name);
      for (const node of members) if (!before.has(node)) this.elements.get(node)?.classList.add(name);
    }
    this.svg.classList.toggle("dimmed", classes.near.size > 0);
    this.shown = classes;
  }

  box(node) {
    return this.elements.get(node)?.getBoundingClientRect() ?? null;
  }

  focus(node) {
    if (!this.elements.has(node)) return;
    this.elements.get(this.current)?.setAttribute("tabindex", "-1");
    this.current = node;
    const element = this.elements.get(node);
    element.setAttribute("tabindex", "0");
    element.focus();
  }

  key(event) {
    const node = this.under(event);
    if (!node || event.ctrlKey || event.metaKey || event.altKey) return;
    const next = this.step(node, event.key);
    if (next) this.focus(next);
    else if (event.key === "Enter" || event.key === " ") this.on.select(node);
    else if (event.key === "p") this.on.pin(node);
    else if (event.key === "Escape") this.on.leave();
    else return;
    event.preventDefault();
  }

  step(node, key) {
    if (key === "ArrowLeft" || key === "ArrowRight") {
      const row = this.order.filter((other) => other.row === node.row);
      return row[row.indexOf(node) + (key === "ArrowLeft" ? -1 : 1)] ?? null;
    }
    if (key !== "ArrowUp" && key !== "ArrowDown") return null;
    const up = key === "ArrowUp" ? 1 : -1;
    const beyond = this.order.filter((other) => (other.row - node.row) * up > 0);
    const row = beyond.reduce((near, other) => (near === null || (other.row - near) * up < 0 ? other.row : near), null);
    const there = beyond.filter((other) => other.row === row);
    return there.reduce((near, other) => (near === null || Math.abs(other.x - node.x) < Math.abs(near.x - node.x) ? other : near), null);
  }
}

/** What a screen reader says. */
function spoken(node) {
  return `${KIND_NAMES[node.kind]} ${isFeature(node) ? `${node.place}, ` : ""}${node.label}, position ${node.column}`;
}
