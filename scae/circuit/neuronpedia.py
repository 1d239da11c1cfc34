"""The JSON of attribution graphs that circuit-tracer writes and Neuronpedia shows, with fields of ours beside it.

    node           node_id                   layer      feature                 feature_type
    MLP feature    {layer}_{feature}_{pos}   layer      Cantor pair of both     cross layer transcoder
    attn feature   {layer}_lor_{feature}_{pos}  layer   Cantor pair of both     lorsa
    MLP error      {layer}_-1_{pos}          layer      -1                      mlp reconstruction error
    attn error     {layer}_error_attn_{pos}  layer      -1                      lorsa error
    token          E_{vocab}_{pos}           E          pos                     embedding
    bias           bias_{pos}                E          -1                      bias
    logit          {layers + 1}_{vocab}_{pos}  layers + 1  vocab                logit

What an embedding with connections leaves out (`sites.embed` with `sites.unembed`) is an error of the embedding:
E_-1_{pos}. Whatever is ours stands in `metadata.scae` and in `scae` of a node.

`influence` of a node is, as there, the share of influence that it and all nodes of more influence hold: a viewer that
shows nodes of at most 0.6 shows the fewest that hold 0.6.
"""

import math
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from scae.attribution import Node
from scae.circuit.record import Graph

SCHEMA_VERSION = 1  # the feature of a node is a Cantor pair


def cantor(layer: int, feature: int) -> int:
    """One number for a layer and a feature of it."""
    return (layer + feature) * (layer + feature + 1) // 2 + feature


def as_json(circuit: Graph, slug: str) -> dict[str, Any]:
    """The whole file; numbers have six digits."""
    nodes = [circuit.nodes[number] for number in range(len(circuit.nodes))]
    ids = [node_id(node, circuit.about.n_layers) for node in nodes]
    promoted = _promoted(circuit, nodes)
    ranks, total = circuit.cumulative.tolist(), circuit.influence.tolist()
    likeliest = max((node.probability for node in nodes), default=0.0)
    written = []
    for node, own, rank, share in zip(nodes, ids, ranks, total, strict=True):
        entry = {
            "node_id": own,
            **_kind(node, circuit),
            "influence": _number(rank),
            "activation": _number(node.activation),
        }
        if node.kind == "logit":
            entry |= {"token_prob": _number(node.probability), "is_target_logit": node.probability == likeliest}
        written.append(entry | {"scae": _ours(node, share, promoted)})
    edges = zip(circuit.source.tolist(), circuit.target.tolist(), circuit.weight.tolist(), strict=True)
    links = [
        {"source": ids[source], "target": ids[target], "weight": _number(weight)}
        for source, target, weight in sorted(edges, key=lambda edge: (edge[1], -abs(edge[2])))
    ]
    clicked = next(
        (
            own
            for node, own in zip(nodes, ids, strict=True)
            if circuit.about.kind == "global" and _name(node) == circuit.about.subject
        ),
        "",
    )
    query = {"linkType": "both", "pinnedIds": [], "clickedId": clicked, "supernodes": [], "sg_pos": ""}
    return {"metadata": _metadata(circuit, slug), "qParams": query, "nodes": written, "links": links}


def node_id(node: Node, n_layers: int) -> str:
    layer, kind = _layer_and_kind(node)
    if node.kind == "feature":
        return f"{layer}_{'lor_' if kind == 'attn' else ''}{node.number}_{node.position}"
    if node.kind == "error":
        return f"{layer}_error_attn_{node.position}" if kind == "attn" else f"{layer}_-1_{node.position}"
    if node.kind == "bias":
        return f"bias_{node.position}"
    return f"{'E' if node.kind == 'token' else n_layers + 1}_{node.number}_{node.position}"


def _layer_and_kind(node: Node) -> tuple[str, str]:
    """Of the site or module where a node stands; what stands before the layers is of layer E."""
    layer, _, kind = node.place.rpartition(".")
    return layer or "E", kind


def _kind(node: Node, circuit: Graph) -> dict[str, Any]:
    """What the schema wants of every node, but for its id."""
    layer, kind = _layer_and_kind(node)
    common = {"layer": layer, "ctx_idx": node.position}
    if node.kind == "feature":
        name = f"{layer}_{'lor_' if kind == 'attn' else ''}{node.number}"
        return common | {
            "feature": cantor(int(layer), node.number),
            "feature_type": "lorsa" if kind == "attn" else "cross layer transcoder",
            "jsNodeId": f"{name}-0",
            "clerp": circuit.words.label(node.place, node.number),
        }
    if node.kind == "error":
        of = "lorsa error" if kind == "attn" else "mlp reconstruction error"
        return common | {
            "feature": -1,
            "feature_type": of,
            "jsNodeId": f"{layer}_{'error_attn' if kind == 'attn' else '-1'}-{node.position}",
            "clerp": f"error of {node.place} at {_quoted(circuit.tokens[node.position])}",
        }
    at = _quoted(circuit.tokens[node.position])
    if node.kind == "bias":
        return common | {
            "feature": -1,
            "feature_type": "bias",
            "jsNodeId": f"bias-{node.position}",
            "clerp": f"bias at {at}",
        }
    text = _quoted(circuit.words.token(node.number))
    if node.kind == "token":
        return common | {
            "feature": node.position,
            "feature_type": "embedding",
            "jsNodeId": f"E_{node.number}-{node.position}",
            "clerp": f"Emb: {text}",
        }
    return common | {
        "layer": str(circuit.about.n_layers + 1),
        "feature": node.number,
        "feature_type": "logit",
        "jsNodeId": f"L_{node.number}-{node.position}",
        "clerp": f"Output {text} (p={node.probability:.3f})" if circuit.about.kind == "prompt" else f"Output {text}",
    }


def _ours(node: Node, influence: float, promoted: dict[tuple[str, int], list[str]]) -> dict[str, Any]:
    """Beside what the schema has: the kind, its place, and what a reader may want to know."""
    found: dict[str, Any] = {"kind": node.kind}
    if node.place:
        found["site"] = node.place
    if node.kind != "error" and node.number >= 0:
        found["feature" if node.kind == "feature" else "token"] = node.number
    numbers = {
        "influence": influence,
        "preactivation": node.preactivation,
        "plain": node.plain,
        "bias": node.constant,
        "predicted": node.predicted,
    }
    found |= {name: _number(value) for name, value in numbers.items() if not math.isnan(value)}
    if node.kind == "feature":
        found["promoted"] = promoted[node.place, node.number]
    return found


def _metadata(circuit: Graph, slug: str) -> dict[str, Any]:
    about, pruning, scores = circuit.about, circuit.pruning, circuit.scores
    ours: dict[str, Any] = {
        "kind": about.kind,
        "run": about.run,
        "pass": "pruned",
        "sites": list(about.sites),
        "n_layers": about.n_layers,
        "weight": about.weight,
        "exactness": about.absolute,
        "relative_exactness": about.relative,
        "nodes": len(circuit.nodes),
        "edges": len(circuit.weight),
    }
    if scores is not None:
        ours["scores"] = {name: _number(value) for name, value in scores._asdict().items()}
    if pruning is not None:
        ours |= {"nodes_before": pruning.n_nodes, "edges_before": pruning.n_edges}
    thresholds = {} if pruning is None else {"node_threshold": pruning.node_threshold}
    return {
        "slug": slug,
        "scan": about.model,
        "transcoder_list": [],
        "prompt_tokens": list(circuit.tokens),
        "prompt": about.subject,
        **thresholds,
        "schema_version": SCHEMA_VERSION,
        "info": {
            "creator_name": "scae",
            "generator": {"name": "scae", "version": _version()},
        },
        "feature_details": {},
        "pruning_settings": {} if pruning is None else thresholds | {"edge_threshold": pruning.edge_threshold},
        "scae": ours,
    }


def _promoted(circuit: Graph, nodes: list[Node]) -> dict[tuple[str, int], list[str]]:
    by_site: dict[str, list[int]] = defaultdict(list)
    for node in nodes:
        if node.kind == "feature":
            by_site[node.place].append(node.number)
    return {
        (site, feature): tokens
        for site, features in by_site.items()
        for feature, tokens in circuit.words.promoted(site, features).items()
    }


def _name(node: Node) -> str:
    """As a reader types a feature, which the connections around it are asked for by."""
    end = {"token": "embed", "logit": "unembed"}.get(node.kind, node.place)
    return f"{end}/{node.number}"


def _quoted(text: str) -> str:
    return f'"{text}"'


def _number(value: float) -> float | None:
    """Six digits are more than anybody reads, and half the file; JSON has no NaN."""
    return None if math.isnan(value) else float(f"{value:.6g}")


def _version() -> str:
    try:
        return version("scae")
    except PackageNotFoundError:
        return "0"
