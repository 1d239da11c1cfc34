// Pinned nodes and the edges between them, groups as one box each: as a drawing, and as a file of the same schema.
"use strict";

const BOX = { height: 30, gap: 18, rise: 78, margin: 16, most: 30 }; // px; most: letters of a label
const FONT = "system-ui, 'DejaVu Sans', Arial, sans-serif";
const MOST_TEXTS = 30; // a drawing of more arrows has their numbers in titles alone
const COLOURS = ["ink", "muted", "raised", "line-strong", "edge-positive", "edge-negative", "ground"];

/** {boxes: [{name, nodes, row, column}], arrows: [{from, to, weight, share}]}; an arrow sums the edges between two boxes. */
function subgraphOf(choices) {
  const boxes = choices.groups.map(({ name, nodes }) => ({ name, nodes, group: true }));
  for (const node of choices.pinned) {
    if (!choices.groupOf(node)) boxes.push({ name: node.label, nodes: [node], group: false });
  }
  const boxOf = new Map(boxes.flatMap((box) => box.nodes.map((node) => [node, box])));
  const mean = (box, key) => box.nodes.reduce((sum, node) => sum + node[key], 0) / box.nodes.length;
  for (const box of boxes) Object.assign(box, { row: Math.round(mean(box, "row")), column: Math.round(mean(box, "column")) });
  const arrows = new Map();
  for (const edge of edgesBetween(choices)) {
    const from = boxOf.get(edge.source), to = boxOf.get(edge.target);
    if (from === to) continue;
    const key = `${boxes.indexOf(from)} ${boxes.indexOf(to)}`;
    const arrow = arrows.get(key) ?? { from, to, weight: 0, share: 0 };
    arrow.weight += edge.weight;
    arrow.share += edge.share / to.nodes.length;
    arrows.set(key, arrow);
  }
  return { boxes, arrows: [...arrows.values()] };
}

function edgesBetween(choices) {
  const { pinned } = choices;
  return [...pinned].flatMap((node) => node.inputs.filter((edge) => pinned.has(edge.source)));
}

/** The pinned part of the file, with what is pinned and grouped. */
function subgraphFile(choices) {
  const { file } = choices.graph;
  const ids = new Set([...choices.pinned].map((node) => node.id));
  return {
    metadata: { ...file.metadata, slug: `${file.metadata.slug}-pinned` },
    qParams: {
      ...file.qParams,
      linkType: file.qParams?.linkType ?? "both",
      pinnedIds: [...ids],
      clickedId: choices.selected && ids.has(choices.selected.id) ? choices.selected.id : "",
      supernodes: choices.groups.map(({ name, nodes }) => [name, ...nodes.map((node) => node.id)]),
      sg_pos: file.qParams?.sg_pos ?? "",
    },
    nodes: file.nodes.filter((node) => ids.has(node.node_id)),
    links: file.links.filter((link) => ids.has(link.source) && ids.has(link.target)),
  };
}

/** Rows are sites, columns positions, those that hold a box; the drawing is whole in itself: colours and fonts are written into it, so that it is the same as a file. */
function drawSubgraph({ boxes, arrows }, choices) {
  const colour = Object.fromEntries(COLOURS.map((name) => [name, look(name)]));
  const font = `13px ${FONT}`;
  const { width, height } = placeBoxes(boxes, font);
  const svg = s("svg", { xmlns: SVG, width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Pinned nodes and the edges between them" });
  svg.append(s("rect", { width, height, fill: colour.ground }));
  spread(arrows, boxes);
  const written = [];
  for (const arrow of arrows) svg.append(drawArrow(arrow, colour, arrows.length <= MOST_TEXTS, written));
  for (const box of boxes) svg.append(drawBox(box, colour, font, choices.graph));
  svg.append(...written);
  return svg;
}

function placeBoxes(boxes, font) {
  const context = document.createElement("canvas").getContext("2d");
  context.font = font;
  for (const box of boxes) {
    const letters = [...(box.group ? `${box.name} (${box.nodes.length})` : box.name)];
    box.text = letters.length > BOX.most ? `${letters.slice(0, BOX.most - 1).join("")}…` : letters.join("");
    box.width = Math.ceil(context.measureText(box.text).width) + 34;
  }
  const levels = (key) => [...new Set(boxes.map((box) => box[key]))].sort((one, other) => one - other);
  const rows = levels("row");
  const cell = (row, column) => boxes.filter((box) => box.row === row && box.column === column);
  const length = (line) => line.reduce((sum, box) => sum + box.width + BOX.gap, -BOX.gap);
  const height = (rows.length - 1) * BOX.rise + BOX.height + 2 * BOX.margin;
  let left = BOX.margin;
  for (const column of levels("column")) {
    const wide = Math.max(...rows.map((row) => length(cell(row, column))));
    rows.forEach((row, number) => {
      let x = left + (wide - length(cell(row, column))) / 2;
      for (const box of cell(row, column)) {
        Object.assign(box, { x, y: height - BOX.margin - BOX.height - number * BOX.rise, level: number });
        x += box.width + BOX.gap;
      }
    });
    left += wide + BOX.gap;
  }
  return { width: Math.ceil(left - BOX.gap + BOX.margin), height };
}

function drawBox(box, colour, font, graph) {
  const title = box.nodes.map((node) => [node.place, node.label, where(node, graph)].filter(Boolean).join(" ")).join("\n");
  const middle = box.y + BOX.height / 2;
  const kind = box.nodes[0].kind;
  const shape = s("path", { d: outline(kind, 4.5), transform: `translate(${box.x + 14},${middle})`, fill: kind === "error" ? "none" : colour.muted, stroke: colour.muted, "stroke-width": 1.2 });
  const text = s("text", { x: box.x + 25, y: middle + 4.5, fill: colour.ink, style: `font: ${font}` }, box.text);
  const frame = s("rect", { x: box.x, y: box.y, width: box.width, height: BOX.height, rx: box.group ? 14 : 5, fill: colour.raised, stroke: colour["line-strong"], "stroke-width": box.group ? 2 : 1 });
  return s("g", {}, s("title", {}, title), frame, shape, text);
}

/** Arrows leave a box along its top and reach it along its bottom, side by side in the order of their other ends. */
function spread(arrows, boxes) {
  const ends = [["from", "to", "x1"], ["to", "from", "x2"]];
  for (const box of boxes) {
    for (const [own, far, x] of ends) {
      const mine = arrows.filter((arrow) => arrow[own] === box).sort((one, other) => one[far].x - other[far].x);
      const room = Math.min(box.width - 24, 26 * (mine.length - 1));
      mine.forEach((arrow, number) => {
        arrow[x] = box.x + box.width / 2 + (mine.length > 1 ? room * (number / (mine.length - 1) - 0.5) : 0);
        if (own === "to") arrow.text = number % 2 ? 0.86 : 0.7; // where on the curve: neighbours at different heights
      });
    }
  }
}

/** From the top of a box to the bottom of another, in a bow around what stands between them. */
function drawArrow({ from, to, x1, x2, weight, share, text }, colour, labelled, written) {
  const level = from.level === to.level;
  const [y1, y2] = level ? [from.y, to.y - 5] : [from.y, to.y + BOX.height + 5];
  const bend = level ? 34 : (y1 - y2) * 0.5;
  const bow = Math.abs(x1 - x2) < 30 && to.level - from.level > 1 ? from.width / 2 + 24 * (to.level - from.level - 1) : 0;
  const stroke = colour[weight < 0 ? "edge-negative" : "edge-positive"];
  const curve = [[x1, y1], [x1 + bow, y1 - bend], [x2 + bow, y2 + (level ? -bend : bend)], [x2, y2]];
  const line = s("path", {
    d: `M${curve[0]}C${curve.slice(1).join(" ")}`,
    fill: "none",
    stroke,
    "stroke-width": (1 + 4 * Math.sqrt(Math.min(1, share))).toFixed(2),
    "stroke-dasharray": weight < 0 ? "6 4" : null,
    opacity: 0.85,
  });
  const foot = level ? -1 : 1;
  const tip = s("path", { d: `M${x2 - 4.5},${y2 + foot}L${x2 + 4.5},${y2 + foot}L${x2},${y2 - 5 * foot}z`, fill: stroke });
  const [x, y] = along(curve, text);
  if (labelled) written.push(arrowText(x, y + 4, signed(weight), stroke, colour.ground));
  return s("g", {}, s("title", {}, `${from.text} → ${to.text}: ${signed(weight)}`), line, tip);
}

/** The point of a Bézier curve at t. */
function along(curve, t) {
  const weights = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t ** 2 * (1 - t), t ** 3];
  return [0, 1].map((axis) => curve.reduce((sum, point, number) => sum + weights[number] * point[axis], 0));
}

function arrowText(x, y, text, fill, ground) {
  const look = { fill, stroke: ground, "stroke-width": 4, "paint-order": "stroke", "text-anchor": "middle" };
  return s("text", { x: x.toFixed(1), y: y.toFixed(1), ...look, style: `font: 11px ${FONT}` }, text);
}
