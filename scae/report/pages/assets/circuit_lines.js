// A node as a line of a list: its mark, its name, where it stands, a number, and a bar behind it all.
"use strict";

/** value: text at the end; share: length of the bar, of 1; tone: colour of the bar; on: {select(node), point(node or null)}. */
function nodeLine(node, graph, on, { value = "", share = 0, tone = "neutral" } = {}) {
  const place = [isFeature(node) && node.label !== node.place ? node.place : "", node.kind === "logit" ? "" : where(node, graph)];
  const behind = place.filter(Boolean).join(" ");
  const button = h(
    "button",
    {
      type: "button",
      class: `line ${tone}`,
      onclick: () => on.select(node),
      onpointerenter: () => on.point(node),
      onpointerleave: () => on.point(null),
    },
    glyph(node.kind),
    h("span", { class: "line-name" }, node.label, behind && h("span", { class: "muted line-place" }, behind)),
    h("span", { class: "line-value" }, value),
  );
  button.style.setProperty("--share", String(Math.min(1, share)));
  return h("li", {}, button);
}
