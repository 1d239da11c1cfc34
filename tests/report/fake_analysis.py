"""A made-up analysis on disk, of any size, that keeps to the format (`scae.report.analysis_files`) and to itself: its
examples, rates and histograms are those of its codes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from scae.report.analysis_files import BANDS, BINS, DRAWN, FORMAT, LOGITS, Array

WORDS = (
    " the",
    " a",
    ".",
    "\n",
    " def",
    " return",
    "self",
    " x",
    "=",
    " cat",
    " dog",
    " Once",
    ",",
    " and",
    " ran",
    "'",
)
NASTY = (
    "<script>alert(1)</script>",
    '"quoted"',
    "\u202eright to left",
    "</script><b>",
    "<!--",
    "\u2028",
    "\\xff",
    "&amp;",
)
KEPT_EXAMPLES, NEIGHBOURS = 16, 8


def write_analysis(
    folder: Path,
    *,
    sites: tuple[str, ...] = ("0.attn", "0.mlp", "1.attn", "1.mlp"),
    features: int = 300,
    windows: int = 32,
    context: int = 64,
    l0: int = 8,
    degree: int = 12,
    pruned: bool = True,
    ends: bool = False,
    seed: int = 0,
) -> Path:
    """Every site has as many features, reads all sites before it, and each feature has `degree` inputs."""
    draw = np.random.default_rng(seed)
    passes = ("plain", "pruned") if pruned else ("plain",)
    n = windows * context
    vocabulary = [*NASTY, *WORDS, *(f" w{i}" for i in range(200))]
    live = np.arange(n) % context > 0
    id_ = draw.integers(0, len(vocabulary), n).astype(np.int32)
    folder.mkdir(parents=True)
    for name in ("features", *(f"codes/{mode}" for mode in passes)):
        (folder / name).mkdir(parents=True)
    positions = np.arange(n, dtype=np.int32)
    text = {
        "id": id_,
        "document": (positions // 40).astype(np.int32),
        "position": positions % context,
        "window": positions // context,
        "live": live,
    }
    save_file({name: np.ascontiguousarray(value) for name, value in text.items()}, folder / "tokens.safetensors")
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    order = (("embed",) if ends else ()) + sites + (("unembed",) if ends else ())
    edges = _edges(draw, order, sites, features, len(vocabulary), degree)
    described = []
    for site in sites:
        fired = [_codes(draw, folder / "codes" / mode / f"{site}.safetensors", live, features, l0) for mode in passes]
        rows = _rows(draw, fired, features, context, int(live.sum()), len(vocabulary), len(order), order.index(site))
        if pruned:
            rows |= {"agreement": _float(draw.uniform(0, 1, features)), "jaccard": _float(draw.uniform(0, 1, features))}
            rows |= edges[site]
        save_file(
            {name: np.ascontiguousarray(value) for name, value in rows.items()}, folder / f"features/{site}.safetensors"
        )
        described.append(_site(site, features, passes, rows))
    blank = {"features": len(vocabulary), "transcoder": False, "out_of": None, "density": None}
    first, last = [{"site": "embed", "kind": "embed"} | blank], [{"site": "unembed", "kind": "unembed"} | blank]
    described = (first if ends else []) + described + (last if ends else [])
    (folder / "analysis.json").write_text(json.dumps(_summary(draw, passes, described, sites, n, live, context)))
    return folder


def _codes(draw: np.random.Generator, path: Path, live: Array, features: int, l0: int) -> tuple[Array, Array, Array]:
    """Write the codes of one pass; (token, feature, value) of every activation. The last features never fire."""
    tokens = np.repeat(np.flatnonzero(live), l0)
    weights = 1 / np.arange(1, features * 9 // 10 + 1) ** 0.7
    feature = draw.choice(len(weights), len(tokens), p=weights / weights.sum())
    pairs = np.unique(tokens * features + feature)
    tokens, feature = pairs // features, pairs % features
    value = draw.gamma(1.5, 1.0, len(pairs)).astype(np.float32) + np.float32(0.01)
    order = np.lexsort((tokens, -value, feature))
    found = {
        "crow": np.searchsorted(tokens, np.arange(len(live) + 1)).astype(np.int64),
        "feature": feature.astype(np.int32),
        "value": value,
        "feature_crow": np.concatenate([[0], np.cumsum(np.bincount(feature, minlength=features))]).astype(np.int64),
        "token": tokens[order].astype(np.int32),
        "by_feature": value[order],
    }
    save_file(found, path)
    return found["feature_crow"], found["token"], found["by_feature"]


def _rows(
    draw: np.random.Generator,
    fired: list[tuple[Array, Array, Array]],
    features: int,
    context: int,
    n_live: int,
    words: int,
    sites: int,
    own: int,
) -> dict[str, Array]:
    passes = len(fired)
    rows: dict[str, Array] = {name: np.zeros((passes, features), np.float32) for name in ("rate", "mean", "max")}
    rows["histogram"] = np.zeros((passes, features, BINS), np.int32)
    rows["top"] = np.full((passes, features, KEPT_EXAMPLES), -1, np.int32)
    rows["top_value"] = np.full(rows["top"].shape, np.nan, np.float32)
    rows["quantile"] = np.full((passes, features, BANDS, DRAWN), -1, np.int32)
    rows["quantile_value"] = np.full(rows["quantile"].shape, np.nan, np.float32)
    for p, (crow, token, value) in enumerate(fired):
        for f in range(features):
            own_tokens, own_values = token[crow[f] : crow[f + 1]], value[crow[f] : crow[f + 1]]
            if not len(own_tokens):
                rows["mean"][p, f] = np.nan
                continue
            rows["rate"][p, f] = len(own_tokens) / n_live
            rows["mean"][p, f], rows["max"][p, f] = own_values.mean(), own_values[0]
            rows["histogram"][p, f] = np.histogram(own_values, np.linspace(0, own_values[0], BINS + 1))[0]
            _, firsts = np.unique(own_tokens // context, return_index=True)
            firsts = np.sort(firsts)[:KEPT_EXAMPLES]
            rows["top"][p, f, : len(firsts)] = own_tokens[firsts]
            rows["top_value"][p, f, : len(firsts)] = own_values[firsts]
            for band, members in enumerate(np.array_split(np.arange(len(own_tokens)), BANDS)):
                drawn = members[:DRAWN]
                rows["quantile"][p, f, band, : len(drawn)] = own_tokens[drawn]
                rows["quantile_value"][p, f, band, : len(drawn)] = own_values[drawn]
    for name, sign in (("promoted", 1), ("suppressed", -1)):
        rows[name] = draw.integers(0, words, (features, LOGITS)).astype(np.int32)
        rows[f"{name}_value"] = _float(sign * np.sort(draw.gamma(2.0, 1.0, (features, LOGITS)))[:, ::-1])
    rows["state"] = np.where(rows["rate"].max(axis=0) == 0, 1, 0).astype(np.int8)
    shape = (features, NEIGHBOURS)
    for kind, measures in (("similar", ("cosine",)), ("coactive", ("jaccard", "correlation", "pmi"))):
        rows[f"{kind}_site"] = np.full(shape, own, np.int16)
        rows[f"{kind}_feature"] = ((np.arange(features)[:, None] + np.arange(1, NEIGHBOURS + 1)) % features).astype(
            np.int32
        )
        rows |= {f"{kind}_{name}": _float(np.sort(draw.uniform(0, 1, shape))[:, ::-1]) for name in measures}
    rows["cluster"] = np.where(np.arange(features) < 6, 0, -1).astype(np.int32)
    return rows


def _edges(
    draw: np.random.Generator, order: tuple[str, ...], sites: tuple[str, ...], features: int, words: int, degree: int
) -> dict[str, dict[str, Array]]:
    """Connections of every site, the same edges from both of their ends."""
    down_site, down, up_site, up, weight, mean = ([] for _ in range(6))  # type: ignore[var-annotated]
    for number, name in enumerate(order):
        if number == 0 or name == "embed":
            continue
        own = words if name == "unembed" else features
        for feature in range(own):
            chosen = draw.integers(0, number, degree)
            sizes = np.where(np.asarray([order[i] == "embed" for i in chosen]), words, features)
            read = draw.integers(0, 2**31, degree) % sizes
            down_site += [number] * degree
            down += [feature] * degree
            up_site += chosen.tolist()
            up += read.tolist()
            weight += draw.normal(0, 1, degree).tolist()
            mean += draw.normal(0, 0.3, degree).tolist()
    arrays = [np.asarray(one) for one in (down_site, down, up_site, up)] + [
        _float(np.asarray(one)) for one in (weight, mean)
    ]
    found = {}
    for site in sites:
        number = order.index(site)
        found[site] = _side("inputs", number, features, arrays[0], arrays[1], arrays[2], arrays[3], *arrays[4:])
        found[site] |= _side("outputs", number, features, arrays[2], arrays[3], arrays[0], arrays[1], *arrays[4:])
        found[site]["inputs_constant"] = _float(draw.normal(0, 1, features))
        found[site]["inputs_total"] = _float(draw.normal(0, 1, features))
    return found


def _side(
    name: str,
    number: int,
    features: int,
    own_site: Array,
    own: Array,
    site: Array,
    feature: Array,
    weight: Array,
    mean: Array,
) -> dict[str, Array]:
    here = np.flatnonzero(own_site == number)
    here = here[np.lexsort((-np.abs(mean[here]), own[here]))]
    counts = np.bincount(own[here].astype(np.int64), minlength=features)
    return {
        f"{name}_crow": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        f"{name}_site": site[here].astype(np.int16),
        f"{name}_feature": feature[here].astype(np.int32),
        f"{name}_weight": weight[here],
        f"{name}_mean": mean[here],
    }


def _site(site: str, features: int, passes: tuple[str, ...], rows: dict[str, Array]) -> dict[str, Any]:
    edges = np.linspace(-5, 0, 21).tolist()
    density: dict[str, Any] = {"edges": edges}
    numbers = {}
    for p, mode in enumerate(passes):
        rates = rows["rate"][p]
        density[mode] = np.histogram(np.log10(rates[rates > 0]), edges)[0].tolist()
        dead = int((rates == 0).sum())
        numbers[mode] = {"l0": 8.0, "l1": 11.5, "fvu": 0.21, "explained_variance": 0.79, "cosine": 0.9, "mse": 0.02}
        numbers[mode] |= {"dead": dead, "never_fired": dead, "no_input": 0, "plain_only": 0}
    layer, _, kind = site.partition(".")
    head = {"site": site, "features": features, "kind": kind, "layer": int(layer), "transcoder": kind == "mlp"}
    return head | numbers | {"density": density}


def _summary(
    draw: np.random.Generator,
    passes: tuple[str, ...],
    described: list[dict[str, Any]],
    sites: tuple[str, ...],
    n: int,
    live: Array,
    context: int,
) -> dict[str, Any]:
    pairs = [(up, down) for i, down in enumerate(sites) for up in sites[:i]]
    faithful = [
        {
            "arm": "pruned",
            "up": up,
            "down": down,
            "edges": 400,
            "rank": float(draw.uniform(0.7, 1)),
            "r2": 0.9,
            "slope": 0.97,
        }
        for up, down in pairs
    ]
    random = [one | {"arm": "random", "rank": one["rank"] * 0.5, "r2": 0.2, "slope": 0.4} for one in faithful]
    examples = np.flatnonzero(live)[:40:8].tolist()
    members = [[site, i] for site in sites[:2] for i in range(6)]
    kept = {
        "n": [0, 1, 10, 100, 1000],
        "kl": [3.0, 2.5, 1.4, 0.5, 0.1],
        "absolute": 0.62,
        "relative": 0.71,
        "log_area": 0.4,
    }
    return {
        "format": FORMAT,
        "passes": list(passes),
        "n_tokens": n,
        "n_live": int(live.sum()),
        "context": context,
        "sites": described,
        "ablation": {
            "clean": 2.31,
            "all": {"zero": 4.1, "mean": 3.9, "reconstruction": 0.4},
            "sites": {site: {"zero": 0.5, "mean": 0.4, "reconstruction": 0.05} for site in sites},
        },
        "faithfulness": faithful,
        "faithfulness_random": random,
        "scalar": {"pruned": kept, "random": kept | {"absolute": 0.3, "relative": 0.33, "log_area": 0.2}},
        "clusters": [{"id": 0, "size": len(members), "members": members, "examples": examples}],
        "agreement": {site: {"mean_correlation": 0.8, "mean_jaccard": 0.6} for site in sites},
        "definitions": {"fvu": "Fraction of variance unexplained."},
    }


def _float(values: Array) -> Array:
    return np.ascontiguousarray(values, dtype=np.float32)
