// Edges on canvas: all of them faint on one, those of the nodes in focus strong on another above it.
// A positive contribution is solid, a negative one dashed and of another colour; the width says the share of its target.
"use strict";

const DASH = [5, 3];
const STRENGTHS = 5; // faint edges are drawn in so many bundles, each of one opacity
const BOW = { row: 9, most: 90 }; // px that an edge leans to the left for each row it passes: long ones stand apart
const MOST_PIXELS = 12e6; // of a canvas: beyond it a large graph is drawn less sharply

class Edges {
  /** bowed: whether edges within a column lean to the left. */
  constructor(all, focus, bowed) {
    this.bowed = bowed;
    this.canvas = { all, focus };
    this.context = { all: all.getContext("2d"), focus: focus.getContext("2d") };
  }

  resize(width, height) {
    const scale = Math.min(devicePixelRatio || 1, Math.sqrt(MOST_PIXELS / (width * height)));
    for (const name of ["all", "focus"]) {
      Object.assign(this.canvas[name], { width: Math.round(width * scale), height: Math.round(height * scale) });
      Object.assign(this.canvas[name].style, { width: `${width}px`, height: `${height}px` });
      this.context[name].setTransform(scale, 0, 0, scale, 0, 0);
    }
    this.size = { width, height };
  }

  clear(name) {
    this.context[name].clearRect(0, 0, this.size.width, this.size.height);
  }

  /** Every kept edge, in bundles of like influence: one stroke a bundle. */
  drawAll(edges) {
    this.clear("all");
    const most = Math.max(...edges.map((edge) => edge.influence), 1e-12);
    const bundles = new Map();
    for (const edge of edges) {
      const strength = Math.min(STRENGTHS - 1, Math.floor(Math.sqrt(edge.influence / most) * STRENGTHS));
      const key = strength * 2 + (edge.weight < 0 ? 1 : 0);
      if (!bundles.has(key)) bundles.set(key, new Path2D());
      trace(bundles.get(key), edge, this.bowed);
    }
    const context = this.context.all;
    const crowd = Math.min(1, Math.sqrt(400 / Math.max(edges.length, 1)));
    for (const [key, path] of [...bundles].sort(([one], [other]) => one - other)) {
      const strength = (key >> 1) / (STRENGTHS - 1);
      context.strokeStyle = look(key & 1 ? "edge-negative" : "edge-positive");
      context.setLineDash(key & 1 && edges.length < 4000 ? DASH : []); // dashes are slow, and in a crowd unseen
      context.globalAlpha = Math.max(0.05, (0.12 + 0.5 * strength) * crowd);
      context.lineWidth = 0.75 + 1.25 * strength;
      context.stroke(path);
    }
  }

  /** strong: edges of the node in focus; weak: of pinned ones. */
  drawFocus(strong, weak) {
    this.clear("focus");
    for (const edge of weak) this.drawOne(edge, 0.45);
    for (const edge of [...strong].sort((one, other) => one.share - other.share)) this.drawOne(edge, 1);
  }

  drawOne(edge, opacity) {
    const context = this.context.focus;
    const path = new Path2D();
    trace(path, edge, this.bowed);
    context.setLineDash(edge.weight < 0 ? DASH : []);
    context.strokeStyle = look(edge.weight < 0 ? "edge-negative" : "edge-positive");
    context.globalAlpha = opacity * (0.35 + 0.65 * Math.min(1, 3 * edge.share));
    context.lineWidth = 1 + 5 * Math.sqrt(edge.share) * opacity;
    context.stroke(path);
  }
}

/** From the top of the source to the bottom of the target; within a row a shallow arc, within a column one to the left. */
function trace(path, { source, target }, bowed = true) {
  path.moveTo(source.x, source.y);
  if (source.row === target.row) {
    path.quadraticCurveTo((source.x + target.x) / 2, source.y + 14, target.x, target.y);
    return;
  }
  const bend = (source.y - target.y) * 0.45;
  const bow = bowed && source.column === target.column ? Math.min(BOW.most, BOW.row * (target.row - source.row - 1)) : 0;
  path.bezierCurveTo(source.x - bow, source.y - bend, target.x - bow, target.y + bend, target.x, target.y);
}
