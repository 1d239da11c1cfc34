// Plots, drawn by uPlot, in the colours of the page; each has its numbers as a table below.
"use strict";

const PLOT_HEIGHT = 260;
const drawn = new Set(); // draws again: all plots, when the scheme changes

window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach((draw) => draw()));

/** A colour of an arm, lighter on a dark ground; "" is that of the text. */
function shade(colour) {
  const lift = Number(look("lift"));
  if (!colour) return look("ink");
  const parts = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  return `rgb(${parts.map((part) => Math.round(part + (255 - part) * lift)).join(", ")})`;
}

/** Path of a marker of half-width r, by the letters that arms have for them. */
function marker_path(path, kind, x, y, r) {
  const corners = {
    s: [[-1, -1], [1, -1], [1, 1], [-1, 1]], D: [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]],
    "^": [[0, -1.2], [1.2, 1], [-1.2, 1]], v: [[0, 1.2], [1.2, -1], [-1.2, -1]],
    h: [[-1.2, 0], [-0.6, -1.1], [0.6, -1.1], [1.2, 0], [0.6, 1.1], [-0.6, 1.1]],
    P: [[-0.4, -1.2], [0.4, -1.2], [0.4, -0.4], [1.2, -0.4], [1.2, 0.4], [0.4, 0.4], [0.4, 1.2], [-0.4, 1.2], [-0.4, 0.4],
      [-1.2, 0.4], [-1.2, -0.4], [-0.4, -0.4]],
    X: [[-1.2, -0.7], [-0.7, -1.2], [0, -0.5], [0.7, -1.2], [1.2, -0.7], [0.5, 0], [1.2, 0.7], [0.7, 1.2], [0, 0.5],
      [-0.7, 1.2], [-1.2, 0.7], [-0.5, 0]],
  }[kind];
  if (!corners) {
    path.moveTo(x + r, y);
    path.arc(x, y, r, 0, 2 * Math.PI);
    return;
  }
  corners.forEach(([dx, dy], i) => path[i ? "lineTo" : "moveTo"](x + dx * r, y + dy * r));
  path.closePath();
}

function markers(kind, size) {
  return (plot, series, first, last) => {
    const path = new Path2D();
    for (let i = first; i <= last; i++) {
      const y = plot.data[series][i];
      if (y === null || y === undefined) continue;
      marker_path(path, kind, plot.valToPos(plot.data[0][i], "x", true), plot.valToPos(y, "y", true), size * devicePixelRatio);
    }
    return { stroke: null, fill: path, clip: null, flags: 3 };
  };
}

function axis(extra) {
  return {
    stroke: look("muted"), font: `12px ${look("sans")}`, labelFont: `12px ${look("sans")}`, labelSize: 22,
    grid: { stroke: look("line"), width: 1 }, ticks: { show: false }, ...extra,
  };
}

const short = (value) => value === null || value === undefined ? "–"
  : value.toLocaleString("en", Math.abs(value) >= 1000 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 4 });

/** In a legend: nothing where the pointer is on no value. */
const told = (value) => (value === null || value === undefined ? "" : short(value));
const place = (value, title) => (value === null || value === undefined ? "" : `${typeof value === "number" ? short(value) : value}${title ? ` ${title}` : ""}`);

/** Names that have room under a plot of this width: every k-th. */
function fitting(names, width) {
  const longest = Math.max(...names.map((name) => name.length)) * 7 + 14;
  const every = Math.ceil((names.length * longest) / Math.max(width, 1));
  return names.map((name, i) => (i % every === 0 ? name : null));
}

/** Put a plot that makes(width) describes into a box, again whenever its room or the scheme changes. */
function plot_in(box, makes) {
  let plot = null;
  let width = 0;
  const draw = () => {
    if (!box.isConnected || box.clientWidth < 40) return;
    width = box.clientWidth;
    const { options, data } = makes(width);
    plot?.destroy();
    plot = new uPlot({ width, ...options }, data, box);
  };
  const watch = new ResizeObserver(() => {
    if (!box.isConnected) return undrawn();
    if (box.clientWidth !== width) draw();
    return undefined;
  });
  const undrawn = () => { watch.disconnect(); drawn.delete(draw); plot?.destroy(); };
  watch.observe(box);
  drawn.add(draw);
}

/** A figure: title, plot, and its table behind a line. */
function figure(title, label, makes, values) {
  const box = h("div", { class: "plot", role: "img", "aria-label": label });
  plot_in(box, makes);
  return h("figure", {}, h("figcaption", {}, title), box,
    values ? h("details", {}, h("summary", { class: "small" }, "As a table"), table(values)) : null);
}

/** Lines over one x: {title, x, lines: [{label, y, colour, marker, dashed, dotted, strong}], names, log, zero, ...}. */
function line_plot(block) {
  const makes = (width) => {
    const names = block.names.length ? fitting(block.names, width - 60) : null;
    const series = block.lines.map((line) => {
      const colour = shade(line.colour);
      const dash = line.dotted ? [2, 3] : line.dashed ? [7, 4] : undefined;
      const few = block.x.length <= 64 && (line.marker || line.dotted);
      return {
        label: line.label, stroke: colour, width: line.strong ? 2.5 : 1.5, dash, spanGaps: true,
        points: few ? { show: true, paths: markers(line.marker, line.strong ? 4.2 : 3.2), fill: colour } : { show: false },
        value: (_, value) => told(value),
      };
    });
    const values = block.lines.flatMap((line) => line.y).filter((value) => value !== null);
    const top = Math.max(...values);
    const x_range = names ? [-0.3, block.x.length - 0.7] : undefined;
    return {
      data: [block.x, ...block.lines.map((line) => line.y)],
      options: {
        height: PLOT_HEIGHT,
        scales: {
          x: { time: false, range: x_range },
          y: block.log ? { distr: 3 } : block.zero ? { range: [Math.min(0, ...values), top * 1.06 || 1] } : {},
        },
        axes: [
          axis({
            label: block.x_title || undefined, size: 34,
            ...(names ? { splits: () => block.x.filter((_, i) => names[i] !== null), values: (_, at) => at.map((i) => names[i]), grid: { show: false } }
              : { values: (_, at) => at.map(short) }),
          }),
          axis({ size: 56, values: (_, at) => at.map((value) => (value === null ? "" : short(value))) }),
        ],
        series: [{ label: "", value: (_, value) => place(block.names[value] ?? value, block.x_title) }, ...series],
        cursor: { y: false, points: { size: 7 }, drag: { x: false, y: false } },
        legend: { markers: { dash: (_, i) => (series[i - 1]?.dash ? "dashed" : "solid") } },
      },
    };
  };
  const first = block.names.length ? "site" : block.x_title || "x";
  const rows = block.x.map((x, i) => ({
    cells: [block.names[i] ?? short(x), ...block.lines.map((line) => (line.y[i] === null ? "-" : short(line.y[i])))],
  }));
  const label = `${block.title}. ${block.lines.map((line) => line.label).join(", ")}. The numbers follow as a table.`;
  return figure(block.title, label, makes, { headers: [block.names.length ? (block.x_title || first) : first, ...block.lines.map((line) => line.label)], left: 1, rows });
}

/** Histograms over the same bins: {title, edges, counts: {name: [...]}, x_title, height}. */
function bar_plot(block, { as_table = true } = {}) {
  const middles = block.edges.slice(1).map((edge, i) => (edge + block.edges[i]) / 2);
  const names = Object.keys(block.counts);
  const makes = () => ({
    data: [middles, ...names.map((name) => block.counts[name])],
    options: {
      height: block.height ?? 170,
      scales: {
        x: { time: false, range: [block.edges[0], block.edges.at(-1)] },
        y: { range: (_, __, top) => [0, top * 1.05 || 1] },
      },
      axes: [
        axis({ label: block.x_title || undefined, labelSize: 18, size: 28, grid: { show: false }, space: 44, values: (_, at) => at.map(short) }),
        axis({ size: 48, space: 36, values: (_, at) => at.map((value) => (Number.isInteger(value) ? short(value) : "")) }),
      ],
      series: [{ label: "", value: (_, value) => place(value, block.x_title) }, ...names.map((name, i) => {
        const last = i === names.length - 1;
        const colour = last ? look("accent") : look("ink");
        return last
          ? { label: name, stroke: colour, fill: `rgba(${look("highlight")}, 0.35)`, width: 1, points: { show: false }, paths: uPlot.paths.bars({ size: [0.9, 60] }), value: (_, value) => told(value) }
          : { label: name, stroke: colour, width: 1.5, points: { show: false }, dash: [4, 3], paths: uPlot.paths.stepped({ align: 0 }), value: (_, value) => told(value) };
      })],
      cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
      legend: { show: names.length > 1 || as_table },
    },
  });
  const rows = middles.map((_, i) => ({ cells: [`${short(block.edges[i])} to ${short(block.edges[i + 1])}`, ...names.map((name) => short(block.counts[name][i]))] }));
  const label = `${block.title}: histogram of ${names.join(", ")}`;
  return figure(block.title, label, makes, as_table ? { headers: [block.x_title || "bin", ...names], left: 1, rows, sortable: false } : null);
}
