// A graph as objects that point at each other, made once from graph.js, and the influence of its nodes and edges.
//
// node: {id, kind, site, feature, row, column, label, ..., inputs: [edge], outputs: [edge], influence}
// edge: {source: node, target: node, weight, share, influence}; weight is the exact contribution, share is |weight| over
// the sum of |weight| of all edges into the target.
"use strict";

const KIND_OF_TYPE = {
  "cross layer transcoder": "mlp",
  lorsa: "attn",
  "mlp reconstruction error": "error",
  "lorsa error": "error",
  embedding: "token",
  bias: "bias",
  logit: "logit",
};
const KIND_NAMES = {
  attn: "attention feature", mlp: "MLP feature", token: "token", bias: "bias", error: "error", logit: "logit",
};
const TOKENS = "tokens", LOGITS = "logits"; // the rows below and above the sites
const ENDS = { embed: TOKENS, unembed: LOGITS }; // sites that stand there

function isFeature(node) {
  return node.kind === "attn" || node.kind === "mlp";
}

/**
 * The graph of a file of the attribution-graph schema; what is ours stands in `scae` of it and of its nodes.
 * labels: by "site/feature", each {label}.
 */
function readGraph(file, labels) {
  const ours = file.metadata.scae ?? {};
  const graph = { file, global: isGlobal(file), tokens: file.metadata.prompt_tokens ?? [], ours };
  graph.nodes = file.nodes.map((given) => readNode(given, graph, labels ?? {}));
  graph.byId = new Map(graph.nodes.map((node) => [node.id, node]));
  graph.edges = [];
  for (const { source, target, weight } of file.links) {
    const edge = { source: graph.byId.get(source), target: graph.byId.get(target), weight };
    if (edge.source && edge.target && weight !== 0) graph.edges.push(edge);
  }
  for (const edge of graph.edges) {
    edge.target.inputs.push(edge);
    edge.source.outputs.push(edge);
  }
  graph.rows = rowsOf(graph);
  for (const node of graph.nodes) node.row = graph.rows.indexOf(node.rowName);
  graph.columns = graph.global ? 1 : Math.max(graph.tokens.length, 1 + Math.max(...graph.nodes.map((n) => n.column)));
  measureInfluence(graph);
  return graph;
}

function isGlobal(file) {
  return file.metadata.scae?.kind === "global";
}

function readNode(given, graph, labels) {
  const ours = given.scae ?? {};
  const kind = KIND_OF_TYPE[given.feature_type] ?? "mlp";
  const node = {
    id: given.node_id,
    given,
    kind,
    site: ours.site ?? null,
    feature: ours.feature ?? null,
    column: graph.global ? 0 : given.ctx_idx,
    activation: number(given.activation),
    preactivation: number(ours.preactivation),
    bias: number(ours.bias),
    plain: number(ours.plain),
    predicted: number(ours.predicted),
    probability: kind === "logit" ? number(given.token_prob) : null,
    promoted: (ours.promoted ?? []).map(String),
    inputs: [],
    outputs: [],
    influence: 0,
  };
  node.rowName = rowName(node, given);
  node.place = `${node.site ?? node.rowName}/${node.feature ?? given.feature}`;
  node.label = nodeLabel(node, graph, labels);
  return node;
}

function number(value) {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

/** Its site; where a file of another program names none, its layer and what it is. */
function rowName(node, given) {
  if (node.kind === "token") return TOKENS;
  if (node.kind === "logit") return LOGITS;
  if (node.site !== null) return ENDS[node.site] ?? node.site;
  if (node.kind === "bias") return TOKENS;
  return `${given.layer}.${given.feature_type.startsWith("lorsa") ? "attn" : "mlp"}`;
}

function nodeLabel(node, graph, labels) {
  const known = Object.hasOwn(labels, node.place) ? labels[node.place]?.label : null;
  if (isFeature(node) && known) return visible(String(known));
  const clerp = visible(String(node.given.clerp ?? "")).trim();
  if (node.kind === "token" && !clerp) return `“${visible(String(graph.tokens[node.column] ?? ""))}”`;
  return clerp || (isFeature(node) ? node.place : `${KIND_NAMES[node.kind]} ${node.site ?? ""}`.trim());
}

/** Rows from below: tokens, the sites in the model's order, logits. */
function rowsOf(graph) {
  const present = new Set(graph.nodes.map((node) => node.rowName));
  const named = (graph.ours.sites ?? []).map((site) => ENDS[site] ?? site);
  const others = [...present].filter((name) => name !== TOKENS && name !== LOGITS && !named.includes(name));
  others.sort((one, other) => one.localeCompare(other, "en", { numeric: true }));
  const inner = [...named, ...others].filter((name) => name !== TOKENS && name !== LOGITS);
  return [TOKENS, ...inner, LOGITS].filter((name) => present.has(name) || inner.includes(name));
}

/**
 * Influence: what flows back from the roots along shares, those among edges that no bias has (as scae/circuit/influence.py).
 *   influence(root) = its probability, all roots together 1
 *   influence(edge) = share(edge) * influence(target);   influence(node) = sum over its outputs
 * A node of whose influence the file says something, counted before it was pruned, has that. The roots are the logits. In the graph of one feature the root is that feature, and what it writes to counts forwards.
 */
function measureInfluence(graph) {
  for (const node of graph.nodes) {
    const size = node.inputs.reduce((sum, edge) => sum + Math.abs(edge.weight), 0);
    for (const edge of node.inputs) edge.share = size ? Math.abs(edge.weight) / size : 0;
  }
  for (const edge of graph.edges) edge.influence = 0;
  const order = topological(graph);
  const roots = rootsOf(graph);
  const total = roots.reduce((sum, node) => sum + (node.probability ?? 1), 0) || 1;
  for (const node of roots) node.influence = (node.probability ?? 1) / total;
  for (const node of order.toReversed()) {
    const read = node.inputs.reduce((sum, edge) => sum + (edge.source.kind === "bias" ? 0 : edge.share), 0);
    for (const edge of node.inputs) {
      edge.influence = (edge.share / (edge.source.kind === "bias" ? 1 : read)) * node.influence;
      edge.source.influence += edge.influence;
    }
  }
  if (graph.global) flowForwards(order, roots);
  else for (const node of graph.nodes) node.influence = number(node.given.scae?.influence) || node.influence;
}

function flowForwards(order, roots) {
  const forward = new Map(roots.map((node) => [node, node.influence]));
  for (const node of order) {
    const size = node.outputs.reduce((sum, edge) => sum + Math.abs(edge.weight), 0);
    for (const edge of forward.has(node) ? node.outputs : []) {
      const flow = (Math.abs(edge.weight) / size) * forward.get(node);
      edge.influence = Math.max(edge.influence, flow);
      forward.set(edge.target, (forward.get(edge.target) ?? 0) + flow);
    }
  }
  for (const [node, flow] of forward) {
    node.influence = Math.max(node.influence, flow);
    for (const edge of [...node.inputs, ...node.outputs]) edge.share = edge.influence; // what else a target reads is not here
  }
}

function rootsOf(graph) {
  const logits = graph.nodes.filter((node) => node.kind === "logit");
  if (!graph.global) return logits.length ? logits : graph.nodes.filter((node) => !node.outputs.length);
  return graph.nodes.filter((node) => node.place === graph.file.metadata.prompt);
}

/** Sources before targets. */
function topological(graph) {
  const waiting = new Map(graph.nodes.map((node) => [node, node.inputs.length]));
  const order = graph.nodes.filter((node) => !node.inputs.length);
  for (let next = 0; next < order.length; next++) {
    for (const { target } of order[next].outputs) {
      waiting.set(target, waiting.get(target) - 1);
      if (waiting.get(target) === 0) order.push(target);
    }
  }
  return order;
}

/** The fewest of these that hold this share of their influence; `always` are kept besides. */
function strongest(things, share, always) {
  if (share >= 1) return new Set(things);
  const sorted = things.toSorted((one, other) => other.influence - one.influence);
  const total = sorted.reduce((sum, thing) => sum + thing.influence, 0);
  const kept = new Set(things.filter(always));
  let held = 0;
  for (const thing of sorted) {
    if (held >= share * total) break;
    held += thing.influence;
    kept.add(thing);
  }
  return kept;
}
