// Tables of data, sortable by each column; and tables whose cells are as dark as their numbers.
"use strict";

/** What a cell is worth when sorting: a number, a duration in seconds, or its words. */
function sort_value(text) {
  const time = [...text.matchAll(/([\d.]+) (s|min|h)\b/g)];
  if (time.length) return time.reduce((sum, [, n, unit]) => sum + Number(n) * { s: 1, min: 60, h: 3600 }[unit], 0);
  const number = Number(text.replace(/[,%\s]/g, ""));
  return text.trim() !== "" && Number.isFinite(number) ? number : text;
}

function compare(a, b) {
  if (typeof a === typeof b) return typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
  return typeof a === "number" ? -1 : 1;
}

/** {headers, left, rows: [{cells, kind}], caption}; the first `left` columns hold words. A cell is a text or an element. */
function table({ headers, left, rows, caption, sortable = true }) {
  const body = h("tbody");
  const lines = rows.map(({ cells, kind }) => h("tr", { class: kind || null }, cells.map((cell, i) => {
    const attributes = i === 0 ? { scope: "row", class: "words" } : { class: i < left ? "words" : null };
    return h(i === 0 ? "th" : "td", attributes, cell === "-" ? h("span", { class: "muted" }, "–") : cell);
  })));
  body.append(...lines);
  const heads = headers.map((header, i) => h("th", { scope: "col", class: i < left ? "words" : null }, sortable && rows.length > 1
    ? h("button", { class: "plain-button", type: "button", title: `Sort by ${header}`, onclick: () => sort(i) }, header)
    : header));
  const sort = (column) => {
    const was = heads[column].getAttribute("aria-sort");
    const words = column < left;
    const first = words ? "ascending" : "descending";
    const order = was === null ? first : was === first ? (words ? "descending" : "ascending") : null;
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    body.classList.toggle("sorted", order !== null);
    if (order === null) return body.append(...lines); // the third time: as it was
    heads[column].setAttribute("aria-sort", order);
    const value = (i) => sort_value(String(rows[i].cells[column]));
    const missing = (i) => rows[i].cells[column] === "-";
    const places = rows.map((_, i) => i).sort((a, b) => missing(a) - missing(b)
      || (order === "ascending" ? 1 : -1) * compare(value(a), value(b)) || a - b);
    return body.append(...places.map((i) => lines[i]));
  };
  return titled(caption, h("table", { "aria-label": caption || null }, h("thead", {}, h("tr", {}, heads)), body));
}

/** A table in a box that scrolls, below what it is: a caption of its own would be as narrow as the table. */
function titled(caption, element) {
  const box = h("div", { class: "scroll" }, element);
  return caption ? h("div", {}, h("p", { class: "caption muted", "aria-hidden": "true" }, caption), box) : box;
}

/** {title, corner, down, across, values}: shares of one; the ground of a cell tells its share once more. */
function heat({ title, corner, down, across, values }) {
  const shares = values.flat().every((value) => value === null || (value >= 0 && value <= 1));
  const most = Math.max(...values.flat().filter((value) => value !== null), 1e-9);
  const shown = (value) => shares ? `${(100 * value).toFixed(1)} %` : value.toLocaleString("en", { maximumSignificantDigits: 4 });
  const cell = (value) => value === null
    ? h("td", {}, h("span", { class: "muted" }, "–"))
    : h("td", { style: { backgroundColor: `rgba(var(--highlight), ${(0.42 * value / most).toFixed(3)})` } }, shown(value));
  return titled(title, h("table", { class: "heat", "aria-label": title },
    h("thead", {}, h("tr", {}, h("th", { scope: "col", class: "words" }, corner), across.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, down.map((name, i) => h("tr", {}, h("th", { scope: "row", class: "words" }, name), values[i].map(cell))))));
}
