// The overview of a run or a sweep: sections of blocks, as `scae/report/pages/blocks.py` describes them.
"use strict";

/** Text in which what stands between backticks is code. */
function inline(text) {
  return text.split("`").map((part, i) => (i % 2 ? h("code", {}, part) : part));
}

const draw_block = {
  text: ({ text, faint }) => h("p", { class: faint ? "muted small" : null }, inline(text)),
  heading: ({ text }) => h("h3", {}, text),
  items: ({ items, notice }) => {
    const list = h("ul", {}, items.map((item) => h("li", {}, inline(item))));
    return notice ? h("div", { class: "notice", role: "note" }, list) : list;
  },
  links: ({ items }) => h("ul", { class: "links" }, items.map(({ text, href, note }) => h("li", {},
    href ? h("a", { href }, text) : h("span", {}, text), note ? h("span", { class: "muted" }, " ", note) : null))),
  facts: ({ items }) => h("dl", { class: "facts" }, items.map(({ name, value, note }) => h("div", {},
    h("dt", {}, name), h("dd", {}, h("span", { class: "value" }, value), h("span", { class: "muted small" }, note))))),
  table: (block) => table(block),
  folded: ({ summary, blocks }) => h("details", {}, h("summary", {}, summary), blocks.map(draw)),
  row: ({ blocks }) => h("div", { class: `row${blocks.every((block) => block.type === "bars") ? " small-plots" : ""}` }, blocks.map(draw)),
  plot: (block) => line_plot(block),
  bars: (block) => bar_plot(block),
  heat: (block) => heat(block),
};

function draw(block) {
  return draw_block[block.type](block);
}

function show(report) {
  const bar = document.querySelector(".bar");
  bar.append(h("span", { class: "name" }, report.name), h("nav", { "aria-label": "Pages" },
    h("a", { href: "#summary", "aria-current": "page" }, "Report"),
    report.pages.map(([name, href]) => h("a", { href }, name))));
  document.querySelector(".contents").append(h("ol", {}, report.sections.map(({ id, title }) => h("li", {}, h("a", { href: `#${id}` }, title)))));
  const kind = report.kind === "sweep" ? "Sweep" : "Run";
  const main = document.getElementById("main");
  main.replaceChildren(
    h("h1", {}, `${kind} ${report.name}`),
    h("div", { class: "asked muted small" }, report.asked.map((line) => h("p", {}, inline(line.replaceAll("**", ""))))),
    ...report.sections.map(({ id, title, blocks }) => h("section", { id, "aria-labelledby": `${id}-title` }, h("h2", { id: `${id}-title` }, title), blocks.map(draw))),
  );
  if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
  document.body.dataset.ready = "true";
}

load(`${document.documentElement.dataset.root}/report.js`).then(show).catch((error) => {
  document.getElementById("main").replaceChildren(h("p", { class: "notice", role: "alert" }, error.message));
});
