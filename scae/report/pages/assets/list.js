// The list of features: searched, sorted, and only as many rows in the page as one sees.
"use strict";

const ROW = 34; // pixels, as in features.css
const COLUMNS = [
  { key: "feature", title: "Feature", value: (row) => row.feature, up: true },
  { key: "name", title: "Label or token", value: (row) => row.name.toLowerCase(), up: true },
  { key: "rate", title: "Rate", value: (row) => row.rate },
  { key: "max", title: "Max", value: (row) => row.max },
  { key: "agreement", title: "Agree", value: (row) => row.agreement, hint: "Correlation of the plain and the pruned activation" },
  { key: "state", title: "State", value: (row) => row.state, hidden: true },
];

class FeatureList {
  constructor(aside, { onsite }) {
    this.rows = [];
    this.found = [];
    this.sort = { key: "feature", up: true };
    this.current = null;
    this.drawn = new Map(); // place in this.found -> its row in the page
    this.site = h("select", { "aria-label": "Site", onchange: () => onsite(this.site.value) });
    this.search = h("input", { type: "search", placeholder: "Search labels, tokens, numbers", "aria-label": "Search features", spellcheck: "false", autocomplete: "off", oninput: () => this.filter() });
    this.state = h("select", { "aria-label": "State", onchange: () => this.filter() },
      [["", "all states"], ["0", "alive"], ["1", "never fires"], ["2", "plain only"], ["3", "no input"]].map(([value, name]) => h("option", { value }, name)));
    this.count = h("p", { class: "muted small count", "aria-live": "polite" });
    this.heads = h("div", { class: "list-row list-head", role: "row" });
    this.canvas = h("div", { class: "canvas", role: "rowgroup" });
    this.box = h("div", { class: "list-box", tabindex: "-1", onscroll: () => this.draw() }, this.canvas);
    this.table = h("div", { class: "list", role: "table", "aria-label": "Features" }, h("div", { role: "rowgroup" }, this.heads), this.box);
    aside.append(h("div", { class: "tools" }, this.site, this.state, this.search, this.count), this.table);
    new ResizeObserver(() => this.draw()).observe(this.box);
  }

  /** sites: numbers of those on show; indexes: their columns. */
  fill(sites, indexes) {
    this.rows = sites.flatMap((site, i) => {
      const index = indexes[i];
      const last = index.rate.length - 1;
      return index.state.map((state, feature) => ({
        site, feature, state, name: index.name(feature), labelled: feature in index.labels,
        rate: index.rate[last][feature], max: index.max[last][feature], agreement: index.agreement?.[feature] ?? null,
      }));
    });
    this.several = sites.length > 1;
    this.table.classList.toggle("several", this.several);
    this.table.classList.toggle("no-agreement", !indexes.some((index) => index.agreement));
    this.head();
    this.filter();
  }

  head() {
    this.heads.replaceChildren(...COLUMNS.filter(({ hidden }) => !hidden).map((column) => {
      const on = this.sort.key === column.key;
      return h("span", { role: "columnheader", class: `cell ${column.key}`, title: column.hint, "aria-sort": on ? (this.sort.up ? "ascending" : "descending") : null },
        h("button", { type: "button", class: "plain-button", onclick: () => this.order(column) }, column.title, on ? (this.sort.up ? " ↑" : " ↓") : ""));
    }));
  }

  order(column) {
    this.sort = { key: column.key, up: this.sort.key === column.key ? !this.sort.up : Boolean(column.up) };
    this.head();
    this.filter();
  }

  filter() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const { key, up } = this.sort;
    const value = COLUMNS.find((column) => column.key === key).value;
    const matches = (row) => {
      if (this.state.value !== "" && row.state !== Number(this.state.value)) return false;
      if (!words.length) return true;
      const text = `${row.name.toLowerCase()} ${site_name(row.site)}/${row.feature}`;
      return words.every((word) => text.includes(word));
    };
    this.found = this.rows.filter(matches);
    const keyed = this.found.map((row) => [value(row), row]);
    const missing = (one) => one === null || one === undefined || one === "";
    keyed.sort(([a], [b]) => missing(a) - missing(b) || (up ? 1 : -1) * (a < b ? -1 : a > b ? 1 : 0));
    this.found = keyed.map(([, row]) => row);
    const all = this.rows.length.toLocaleString("en");
    this.count.textContent = this.found.length === this.rows.length ? `${all} features` : `${this.found.length.toLocaleString("en")} of ${all} features`;
    this.canvas.style.height = `${this.found.length * ROW}px`;
    this.box.scrollTop = 0;
    this.table.setAttribute("aria-rowcount", this.found.length);
    this.canvas.replaceChildren();
    this.drawn.clear();
    this.reveal();
    this.draw();
  }

  /** A row that stays in sight stays the same element: a click on it counts only if it is not replaced under the pointer. */
  draw() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW) - 8);
    const last = Math.min(this.found.length, first + Math.ceil(this.box.clientHeight / ROW) + 16);
    const current = this.place();
    const rows = new Map();
    for (let i = last - 1, next = null; i >= first; i--) {
      const row = this.drawn.get(i) ?? this.canvas.insertBefore(this.row(this.found[i], i), next);
      if (i === current) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
      rows.set(i, row);
      next = row;
    }
    for (const [i, row] of this.drawn) if (!rows.has(i)) row.remove();
    this.drawn = rows;
  }

  row(row, i) {
    const state = STATES[row.state] ?? STATES[0];
    const name = row.state && !row.name ? h("em", { class: "muted", title: state[1] }, state[0])
      : [h("span", { class: row.labelled ? "" : "mono", dir: "auto" }, row.name || "–"), row.state ? h("em", { class: "muted", title: state[1] }, ` ${state[0]}`) : null];
    return h("a", {
      class: "list-row", role: "row", href: address(row.site, row.feature), "aria-rowindex": i + 1, style: { top: `${i * ROW}px` },
    },
    h("span", { class: "cell feature", role: "cell" }, this.several ? `${site_name(row.site)}/${row.feature}` : row.feature),
    h("span", { class: "cell name", role: "cell", title: row.name }, name),
    h("span", { class: "cell rate", role: "cell" }, percent(row.rate)),
    h("span", { class: "cell max", role: "cell" }, row.state === 1 ? "–" : number(row.max)),
    h("span", { class: "cell agreement", role: "cell" }, number(row.agreement)));
  }

  /** Show where one is; the row scrolls into view if it is in none. */
  select(site, feature) {
    this.current = site === null ? null : { site, feature };
    this.reveal();
    this.draw();
  }

  place() {
    return this.current ? this.found.findIndex((row) => row.site === this.current.site && row.feature === this.current.feature) : -1;
  }

  reveal() {
    const at = this.place();
    if (at < 0) return;
    const top = at * ROW;
    if (top < this.box.scrollTop || top + ROW > this.box.scrollTop + this.box.clientHeight) {
      this.box.scrollTop = Math.max(0, top - this.box.clientHeight / 3);
    }
  }

  /** The row so many further down. */
  step(by) {
    if (!this.found.length) return null;
    const at = this.place();
    return this.found[Math.min(this.found.length - 1, Math.max(0, at < 0 ? 0 : at + by))];
  }
}
