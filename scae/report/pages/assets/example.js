// Examples: tokens with the activation behind each, as opacity; a click or a hover tells its value and place.
"use strict";

/** What is shown of one token. */
function token_text(text, place) {
  return visible(text.vocabulary[text.ids[place]]);
}

/** example: [place, offset, strength, ...]; largest: the activation that full strength is. */
function example_line(text, example, largest, { before, after, full }) {
  const [place, ...pairs] = example;
  const strength = new Map();
  for (let i = 0; i < pairs.length; i += 2) strength.set(pairs[i], pairs[i + 1]);
  const first = place - (place % text.context);
  const start = Math.max(first, place - before);
  const stop = Math.min(first + text.context, place + after + 1);
  const line = h("div", { class: "text", dir: "auto" });
  if (start > first) line.append(h("span", { class: "muted" }, "…"));
  for (let at = start; at < stop; at++) {
    if (text.begins.has(at) && at > start) line.append(h("span", { class: "border", title: `Document ${document_at(text, at)} begins` }, "¶"));
    line.append(one_token(text, at, strength.get(at - place), at === place, largest, full));
  }
  if (stop < first + text.context) line.append(h("span", { class: "muted" }, "…"));
  return line;
}

function one_token(text, at, strength, is_example, largest, full) {
  const shown = token_text(text, at);
  const value = strength === undefined ? null : (largest * strength) / full;
  const where = `document ${document_at(text, at)}, position ${at % text.context}`;
  const classes = ["token", is_example && "here", text.no_text.has(at) && "no-text"].filter(Boolean).join(" ");
  return h("span", {
    class: classes,
    title: `${value === null ? "silent" : value.toPrecision(3)} · ${where}`,
    "data-value": value === null ? null : value.toPrecision(4),
    style: value === null ? null : { backgroundColor: `rgba(var(--highlight), ${(0.08 + (0.47 * strength) / full).toFixed(3)})` },
  }, shown);
}

/** A list of examples: the activation on the left, the text on the right. */
function example_list(text, examples, largest, meta) {
  return h("ol", { class: "examples" }, examples.map((example) => {
    const at = example.indexOf(0, 1);
    const strength = at > 0 && at % 2 ? example[at + 1] : null;
    return h("li", {}, h("span", { class: "value muted" }, strength === null ? "–" : ((largest * strength) / meta.full).toPrecision(3)),
      example_line(text, example, largest, meta));
  }));
}
