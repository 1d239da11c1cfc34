// What is known of a node, in words and numbers: the box beside the pointer and the panel share it.
"use strict";

/** Three digits, with a true minus. */
function figure(value) {
  if (value === null) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1000 || size < 0.001 ? size.toExponential(1) : size.toPrecision(3);
  return (value < 0 ? "−" : "") + text;
}

function signed(value) {
  return (value > 0 ? "+" : "") + figure(value);
}

function percent(value) {
  const part = 100 * value;
  return `${part >= 99.95 ? 100 : part.toPrecision(part >= 10 ? 3 : 2)} %`;
}

/** "at 5 “ cat”"; "" in the graph of one feature, which has no positions. */
function where(node, graph) {
  if (graph.global) return "";
  const token = graph.tokens[node.column];
  return token === undefined || !isFeature(node) ? `at ${node.column}` : `at ${node.column} “${visible(String(token))}”`;
}

/**
 * Whether the edges in the file sum to the pre-activation: {sum, left}; left is what the edges have that were pruned from
 * the file, 0 up to rounding where none were. Null where nothing is known to compare with.
 */
function check(node) {
  if (node.preactivation === null) return null;
  const sum = node.inputs.reduce((total, edge) => total + edge.weight, 0);
  const size = node.inputs.reduce((total, edge) => total + Math.abs(edge.weight), Math.abs(node.preactivation));
  const left = node.preactivation - sum;
  return { sum, left: Math.abs(left) <= 1e-4 * size ? 0 : left };
}

/** [[name, value, explanation], ...] */
function factsOf(node, graph) {
  const facts = [];
  const add = (name, value, why) => value !== null && facts.push([name, figure(value), why]);
  if (node.kind === "logit") {
    if (node.probability !== null) facts.push(["probability", percent(node.probability), "of this token next, by the model"]);
    if (node.predicted !== null) facts.push(["in the pruned pass", percent(node.predicted), "the probability that the pruned suite gives it"]);
    add("logit", node.preactivation, "");
  } else {
    add("activation", node.activation, "");
    add("pre-activation", node.preactivation, "before the activation function");
    add("of it constant", node.bias, "what biases give, whatever the text");
    if (node.plain !== null) add("in the plain pass", node.plain, "the pre-activation where every site reads the model's own activations");
  }
  const sum = graph.global ? null : check(node);
  if (sum) {
    const how = sum.left === 0 ? `= ${figure(sum.sum)} ✓` : `${figure(sum.sum)}, ${signed(sum.left)} in pruned edges`;
    facts.push(["sum of inputs", how, "the edges into this node, against its pre-activation"]);
  }
  const through = graph.global ? "share of its contributions that the feature in question has" : "share of the output that flows through it";
  facts.push(["influence", percent(node.influence), through]);
  if (node.promoted.length) facts.push(["promotes", node.promoted.map(visible).join("  "), "next tokens that it makes likelier, the first the most"]);
  return facts;
}

/** A box beside the pointer, or beside the node that the keyboard is at. */
class Tip {
  constructor(element, graph) {
    Object.assign(this, { element, graph });
  }

  hide() {
    this.element.hidden = true;
  }

  show(node, box) {
    this.element.replaceChildren(
      h("div", { class: "tip-name" }, glyph(node.kind), h("span", {}, node.label)),
      h("div", { class: "muted" }, [isFeature(node) ? node.place : KIND_NAMES[node.kind], where(node, this.graph)].filter(Boolean).join(" ")),
      h("dl", {}, factsOf(node, this.graph).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    );
    this.element.hidden = false;
    const own = this.element.getBoundingClientRect();
    const left = box.right + 10 + own.width < innerWidth ? box.right + 10 : box.left - own.width - 10;
    const top = Math.min(Math.max(box.top - 10, 8), innerHeight - own.height - 8);
    Object.assign(this.element.style, { left: `${Math.max(8, left)}px`, top: `${top}px` });
  }
}
