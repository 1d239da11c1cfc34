// Where nodes stand: rows are sites, columns are positions; nodes of one cell stand side by side, in several lines if many.
"use strict";

const SPACING = 16; // px between nodes of a cell
const WIDE = 44; // and in a graph of one column, where there is room
const CELL = { side: 12, top: 10, most: 168, least: 40, tall: 130, flat: 22 };

/**
 * Gives each of these nodes x and y, and returns {width, height, columns: [{x, width}], rows: [{y, height, top}]}, px, y downwards.
 * A cell has as many nodes in a line as fit where all columns together fill `width`, at least rather more than lines.
 */
function layOut(graph, nodes, heads, width, height) {
  const cells = new Map();
  for (const node of nodes) {
    const key = node.row * graph.columns + node.column;
    if (!cells.has(key)) cells.set(key, []);
    cells.get(key).push(node);
  }
  const most = new Array(graph.columns).fill(0);
  for (const cell of cells.values()) most[cell[0].column] = Math.max(most[cell[0].column], cell.length);
  const line = lineLength(most, heads, width);
  const columns = placeColumns(most, heads, line, width);
  const lines = new Array(graph.rows.length).fill(0);
  for (const cell of cells.values()) lines[cell[0].row] = Math.max(lines[cell[0].row], Math.ceil(cell.length / line));
  const rows = placeRows(lines, height);
  for (const cell of cells.values()) placeCell(cell, columns.places[cell[0].column], rows.places[cell[0].row], line, graph.columns === 1);
  return { width: columns.width, height: rows.height, columns: columns.places, rows: rows.places };
}

function columnWidth(most, head, line) {
  return Math.max(CELL.least, head + 14, Math.min(most, line) * SPACING + CELL.side);
}

function lineLength(most, heads, width) {
  const largest = Math.max(1, ...most);
  let line = Math.max(3, Math.ceil(1.6 * Math.sqrt(largest)));
  const fits = (length) => most.reduce((sum, count, c) => sum + columnWidth(count, heads[c], length), 0) <= width;
  while (line < largest && fits(line + 1)) line++;
  return line;
}

function placeColumns(most, heads, line, width) {
  const widths = most.map((count, c) => columnWidth(count, heads[c], line));
  const spare = Math.max(0, width - widths.reduce((sum, each) => sum + each, 0)) / widths.length;
  const places = [];
  let x = 0;
  for (const each of widths) {
    const whole = widths.length === 1 ? Math.max(each, width) : Math.max(each, Math.min(each + spare, CELL.most));
    places.push({ x, width: whole });
    x += whole;
  }
  return { places, width: Math.max(x, width) };
}

/** Rows from below; those without nodes are flat. */
function placeRows(lines, height) {
  const heights = lines.map((count) => (count ? count * SPACING + 2 * CELL.top : CELL.flat));
  const needed = heights.reduce((sum, each) => sum + each, 0);
  const filled = lines.filter(Boolean).length || 1;
  const spare = Math.max(0, height - needed) / filled;
  const places = lines.map((count, row) => ({ height: count ? Math.max(heights[row], Math.min(heights[row] + spare, CELL.tall)) : heights[row] }));
  const whole = Math.max(places.reduce((sum, each) => sum + each.height, 0), height);
  let below = whole;
  for (const place of places) {
    below -= place.height;
    Object.assign(place, { top: below, y: below + place.height / 2 });
  }
  const above = below; // what is left over stands above the logits
  for (const place of places) Object.assign(place, { top: place.top - above, y: place.y - above });
  return { places, height: whole - above };
}

const ORDER = { logit: 0, token: 0, attn: 0, mlp: 0, error: 1, bias: 2 };

/** Features first, the most influential left; errors and biases behind them. */
function placeCell(cell, column, row, line, alone) {
  cell.sort((one, other) => ORDER[one.kind] - ORDER[other.kind] || other.influence - one.influence || (one.id < other.id ? -1 : 1));
  const count = Math.ceil(cell.length / line);
  const even = Math.ceil(cell.length / count);
  const spacing = alone ? Math.min(WIDE, Math.max(SPACING, (column.width - CELL.side) / line)) : SPACING;
  cell.forEach((node, index) => {
    const at = Math.floor(index / even);
    const inLine = Math.min(even, cell.length - at * even);
    node.x = column.x + column.width / 2 + ((index % even) - (inLine - 1) / 2) * spacing;
    node.y = row.y + (at - (count - 1) / 2) * SPACING;
  });
}
