// The mark of a node: its shape says what it is. The same shapes stand in the graph, the legend and the lists.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

function s(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** The outline of a kind at radius r around 0, 0, as the data of a path. */
function outline(kind, r) {
  if (kind === "attn") return polygon([[0, -1.25 * r], [1.25 * r, 0], [0, 1.25 * r], [-1.25 * r, 0]]);
  if (kind === "token") return polygon([[-r, -r], [r, -r], [r, r], [-r, r]]);
  if (kind === "logit") return polygon([[-1.2 * r, -0.9 * r], [1.2 * r, -0.9 * r], [0, 1.2 * r]]);
  if (kind === "bias") return polygon([[-1.1 * r, 0.9 * r], [1.1 * r, 0.9 * r], [0, -1.1 * r]]);
  if (kind === "error") return `M${-r},${-r}L${r},${r}M${-r},${r}L${r},${-r}`;
  return `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0z`;
}

function polygon(points) {
  return `M${points.map(([x, y]) => `${x},${y}`).join("L")}z`;
}

function mark(kind, r = 5) {
  return s("path", { d: outline(kind, r), class: `mark ${kind}` });
}

/** A mark that stands in text. */
function glyph(kind) {
  return s("svg", { class: "glyph", viewBox: "-8 -8 16 16", width: 16, height: 16, "aria-hidden": "true" }, mark(kind));
}
