// Elements from data. Text only ever becomes text nodes: nothing here parses HTML.
"use strict";

/** h("a", {href: "#x", class: "muted"}, "text", child, [more]): an element. A null or false child or attribute is left out. */
function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const CONTROL = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
const SHOWN = { "\n": "↵", "\t": "⇥", "\r": "␍" };

/** Text of the corpus as one can read it: what controls lines and directions is written out, it does not act. */
function visible(text) {
  return text.replace(CONTROL, (letter) => SHOWN[letter] ?? `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** The value of a colour or number in style.css. */
function look(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}
