"""Made-up graphs of prompts in the schema of `python -m scae.circuit`: every edge drawn first, every sum after it."""

import json
import random
from pathlib import Path
from typing import Any

TEXT = "When the old captain and his daughter went down to the harbour , the captain gave a lantern to his"
WORDS = TEXT.split()


def make_graph(
    *, layers: int = 4, tokens: int = 12, per_cell: int = 3, inputs: int = 12, logits: int = 5, seed: int = 0
) -> dict[str, Any]:
    """Sites x positions with up to 2 * per_cell features a cell, `inputs` edges into each node."""
    draw = random.Random(seed)
    sites = [f"{layer}.{kind}" for layer in range(layers) for kind in ("attn", "mlp")]
    words = ["<s>", *(f" {WORDS[i % len(WORDS)]}" for i in range(tokens - 1))]
    nodes: list[dict[str, Any]] = []
    for position, word in enumerate(words):
        nodes.append(_node(f"E_{position + 7}_{position}", "embedding", "E", position, clerp=f'Emb: "{word}"'))
        nodes.append(_node(f"bias_{position}", "bias", "0", position, clerp="constants"))
    rows: list[list[dict[str, Any]]] = [list(nodes)]
    for site in sites:
        layer, kind = site.split(".")
        row = []
        for position in range(tokens):
            many = draw.randint(0, 2 * per_cell) + (2 * per_cell if position == tokens - 1 else 0)
            for feature in draw.sample(range(512), min(many, 500)):
                row.append(_feature(site, feature, position, draw))
            if draw.random() < 0.3:
                error = _node(f"0_{layer}_{kind}_{position}", _error(kind), layer, position, clerp=f"error of {site}")
                row.append(error | {"scae": {"site": site, "feature": None}})
        rows.append(row)
        nodes += row
    rows.append([_logit(rank, layers, tokens - 1) for rank in range(logits)])
    nodes += rows[-1]
    links = _links(rows, inputs, draw)
    _sum_up(nodes, links)
    return {
        "metadata": {
            "slug": "captain",
            "scan": "scae",
            "prompt_tokens": words,
            "prompt": "".join(words),
            "node_threshold": 0.9,
            "schema_version": 1,
            "scae": {"kind": "prompt", "run": "run", "pass": "pruned", "sites": sites, "exactness": 3.1e-7},
        },
        "qParams": {"linkType": "both", "pinnedIds": [], "clickedId": "", "supernodes": [], "sg_pos": ""},
        "nodes": nodes,
        "links": links,
    }


def make_global(*, inputs: int = 8, outputs: int = 6, seed: int = 0) -> dict[str, Any]:
    """The connections of 2.mlp/17, one step back and one forth."""
    draw = random.Random(seed)
    sites = [f"{layer}.{kind}" for layer in range(4) for kind in ("attn", "mlp")]
    root = _feature("2.mlp", 17, 0, draw)
    back = [_feature(draw.choice(sites[:5]), 100 + number, 0, draw) for number in range(inputs)]
    forth = [_feature(draw.choice(sites[6:]), 200 + number, 0, draw) for number in range(outputs)]
    links = [{"source": node["node_id"], "target": root["node_id"], "weight": draw.gauss(0, 1)} for node in back]
    links += [{"source": root["node_id"], "target": node["node_id"], "weight": draw.gauss(0, 1)} for node in forth]
    about = {"kind": "global", "run": "run", "pass": "pruned", "sites": sites, "weight": "virtual weight"}
    given = {"slug": "2-mlp-17", "scan": "tiny", "prompt_tokens": ["2.mlp/17"], "prompt": "2.mlp/17", "scae": about}
    nodes = [node | {"activation": None} for node in (*back, root, *forth)]
    return {"metadata": given, "qParams": {"linkType": "both"}, "nodes": nodes, "links": links}


def put_graph(folder: Path, graph: dict[str, Any]) -> Path:
    """As `python -m scae.circuit` writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(graph)
    (folder / "graph.json").write_text(text)
    (folder / "graph.js").write_text(f'scae_data("graph", {text});\n')
    return folder


def _node(node_id: str, feature_type: str, layer: str, position: int, **more: Any) -> dict[str, Any]:
    return {
        "node_id": node_id,
        "feature": 0,
        "layer": layer,
        "ctx_idx": position,
        "feature_type": feature_type,
        "jsNodeId": f"{node_id}-0",
        "clerp": "",
        "influence": None,
        "activation": None,
        "token_prob": 0.0,
        "is_target_logit": False,
    } | more


def _feature(site: str, feature: int, position: int, draw: random.Random) -> dict[str, Any]:
    layer, kind = site.split(".")
    attention = kind == "attn"
    node_id = f"{layer}_lor_{feature}_{position}" if attention else f"{layer}_{feature}_{position}"
    paired = (int(layer) + feature) * (int(layer) + feature + 1) // 2 + feature
    node = _node(node_id, "lorsa" if attention else "cross layer transcoder", layer, position, feature=paired)
    return node | {"scae": {"site": site, "feature": feature}, "activation": round(draw.expovariate(1.0), 4)}


def _error(kind: str) -> str:
    return "lorsa error" if kind == "attn" else "mlp reconstruction error"


def _logit(rank: int, layers: int, position: int) -> dict[str, Any]:
    token, probability = [(" daughter", 0.52), (" friend", 0.17), (" son", 0.09), (" wife", 0.05), (" dog", 0.02)][rank]
    node = _node(f"{layers + 1}_{rank}_{position}", "logit", str(layers + 1), position, feature=rank)
    return node | {
        "clerp": f'Output "{token}" (p={probability:.3f})',
        "token_prob": probability,
        "is_target_logit": rank == 0,
    }


def _links(rows: list[list[dict[str, Any]]], inputs: int, draw: random.Random) -> list[dict[str, Any]]:
    """Into MLP features from their own position, into attention features from it and before it."""
    links = []
    for number, row in enumerate(rows[1:], start=1):
        below = [node for earlier in rows[:number] for node in earlier]
        for target in row:
            if "error" in target["feature_type"]:
                continue
            moves, here = target["feature_type"] == "lorsa", target["ctx_idx"]
            readable = [node for node in below if node["ctx_idx"] == here or (moves and node["ctx_idx"] < here)]
            for source in draw.sample(readable, min(inputs, len(readable))):
                weight = draw.gauss(0.2, 0.6) * draw.expovariate(1.0)
                links.append({"source": source["node_id"], "target": target["node_id"], "weight": weight})
    return links


def _sum_up(nodes: list[dict[str, Any]], links: list[dict[str, Any]]) -> None:
    """Pre-activations are the sums of the edges, and what of them comes from constants."""
    by_id = {node["node_id"]: node for node in nodes}
    for node in nodes:
        if node["feature_type"] in ("lorsa", "cross layer transcoder"):
            node["scae"] |= {"preactivation": 0.0, "bias": 0.0}
    for link in links:
        known = by_id[link["target"]].get("scae")
        if known is not None:
            known["preactivation"] += link["weight"]
            known["bias"] += link["weight"] if link["source"].startswith("bias") else 0.0
