"""The data of `features.html`: what it needs first (`features.js`), the list of each site, and shards of features.

    features.js             sites, passes, and where things are
    tokens.js               `Texts`
    site<i>/index.js        a column a number that the list of features shows
    site<i>/<s>.js          features s * SHARD to (s + 1) * SHARD of site i, whole
    clusters.js             features that fire together

A page of a feature loads the first two, the list of its site and one shard.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from scae.report.analysis_files import Analysis, Array, Tables
from scae.report.pages.examples import AFTER, BEFORE, FULL, read_examples
from scae.report.pages.scripts import packed, script
from scae.report.pages.tokens import Texts

SHARD = 256
STEPS = 9999  # weights and contributions are whole numbers of such parts of a feature's largest
Labels = Mapping[str, Mapping[str, Any]]


def feature_files(analysis: Analysis, labels: Labels, run: str) -> Iterator[tuple[str, str]]:
    """(name, content) of every file. labels: by "site/feature"; run: its name."""
    texts = Texts(analysis)
    yield "tokens.js", packed("tokens", texts.data)
    clusters = analysis.summary.get("clusters") or []
    if clusters:
        yield "clusters.js", packed("clusters", [_cluster(analysis, texts, cluster) for cluster in clusters])
    for site in analysis.sites:
        number = analysis.site_names.index(site)
        yield f"site{number}/index.js", packed(f"index {number}", site_index(analysis, texts, site, labels))
        for start in range(0, analysis.n_features(site), SHARD):
            shard = start // SHARD
            yield f"site{number}/{shard}.js", packed(f"shard {number} {shard}", features(analysis, texts, site, start))
    yield "features.js", script("features", _first(analysis, run, bool(clusters)))


def _first(analysis: Analysis, run: str, clusters: bool) -> dict[str, Any]:
    kept = ("site", "features", "kind", "layer", *analysis.passes)
    sites = [{key: _plain(site[key]) for key in kept if key in site} for site in analysis.summary["sites"]]
    return {
        "run": run,
        "passes": list(analysis.passes),
        "sites": sites,
        "listed": [analysis.site_names.index(site) for site in analysis.sites],
        "shard": SHARD,
        "before": BEFORE,
        "after": AFTER,
        "full": FULL,
        "n_live": analysis.n_live,
        "clusters": clusters,
    }


def site_index(analysis: Analysis, texts: Texts, site: str, labels: Labels) -> dict[str, Any]:
    """Columns over the features of a site: rate, mean and max for each pass, and what a list tells of each."""
    tables = analysis.features(site)
    columns: dict[str, Any] = {name: [_numbers(row) for row in tables[name]] for name in ("rate", "mean", "max")}
    for name in ("agreement", "jaccard"):
        if name in tables:
            columns[name] = _numbers(tables[name])
    top = tables["top"][-1, :, 0]  # of the last pass; where it does not fire there, of the first
    top = np.where(top < 0, tables["top"][0, :, 0], top)
    ids = np.where(top < 0, -1, analysis.tokens["id"][np.maximum(top, 0)])
    named = {}
    for feature in range(analysis.n_features(site)):
        label = labels.get(f"{site}/{feature}")
        if label is not None and label.get("label"):
            scores = {key: _plain(label[key]) for key in ("detection", "fuzzing") if label.get(key) is not None}
            named[str(feature)] = {"label": str(label["label"])} | scores
    return columns | {"state": tables["state"].tolist(), "top": texts.word(ids).tolist(), "labels": named}


def features(analysis: Analysis, texts: Texts, site: str, start: int) -> list[dict[str, Any]]:
    """The features of one shard."""
    tables = analysis.features(site)
    stop = min(start + SHARD, analysis.n_features(site))
    found: list[dict[str, Any]] = [{"top": [], "bands": [], "histogram": []} for _ in range(start, stop)]
    for number, mode in enumerate(analysis.passes):
        largest = tables.columns("max", start, stop)[number]
        top = tables.columns("top", start, stop)[number]
        drawn = tables.columns("quantile", start, stop)[number]
        _, bands, each = drawn.shape
        chosen = np.concatenate([top, drawn.reshape(len(drawn), -1)], axis=1).astype(np.int64)
        examples = read_examples(analysis, texts, site, mode, start, chosen, largest)
        histograms = tables.columns("histogram", start, stop)[number].tolist()
        begins = [top.shape[1] + band * each for band in range(bands)]
        for feature, own, histogram in zip(found, examples, histograms, strict=True):
            feature["top"].append(_there(own[: top.shape[1]]))
            feature["bands"].append([_there(own[begin : begin + each]) for begin in begins])
            feature["histogram"].append(histogram)
    _add_words(found, tables, texts, start, stop)
    _add_edges(found, tables, texts, analysis, start, stop)
    _add_neighbours(found, tables, start, stop)
    return found


def _there(examples: list[list[int]]) -> list[list[int]]:
    return [example for example in examples if example]


def _add_words(found: list[dict[str, Any]], tables: Tables, texts: Texts, start: int, stop: int) -> None:
    for name in ("promoted", "suppressed"):
        words = texts.word(tables.rows(name, start, stop).astype(np.int64)).tolist()
        values = tables.rows(f"{name}_value", start, stop)
        for feature, own, value in zip(found, words, values, strict=True):
            feature[name] = {"word": own, "value": _numbers(value)}


def _add_edges(
    found: list[dict[str, Any]], tables: Tables, texts: Texts, analysis: Analysis, start: int, stop: int
) -> None:
    """Connections in both directions. An end of the stream has words of the vocabulary for features."""
    ends = [number for number, site in enumerate(analysis.site_names) if site not in analysis.sites]
    for side in ("inputs", "outputs"):
        if f"{side}_crow" not in tables:
            continue
        crow = tables.rows(f"{side}_crow", start, stop + 1)
        site, feature, weight, mean = (
            tables.rows(f"{side}_{name}", int(crow[0]), int(crow[-1])) for name in ("site", "feature", "weight", "mean")
        )
        if ends:
            feature = np.where(np.isin(site, ends), texts.word(feature.astype(np.int64)), feature)
        weight, mean = (np.nan_to_num(one.astype(np.float64), posinf=0.0, neginf=0.0) for one in (weight, mean))
        bounds = (crow - crow[0]).tolist()
        for own, begin, end in zip(found, bounds, bounds[1:], strict=False):
            weights, weight_unit = _steps(weight[begin:end])
            means, mean_unit = _steps(mean[begin:end])
            own[side] = {
                "site": site[begin:end].tolist(),
                "feature": feature[begin:end].tolist(),
                "weight": weights,
                "mean": means,
                "units": [weight_unit, mean_unit],
            }
    for name in ("constant", "total"):
        if f"inputs_{name}" in tables:
            values = _numbers(tables.rows(f"inputs_{name}", start, stop), 4)
            for own, value in zip(found, values, strict=True):
                own[name] = value


def _add_neighbours(found: list[dict[str, Any]], tables: Tables, start: int, stop: int) -> None:
    if "similar_site" not in tables:
        return
    kinds = {"similar": ("cosine",), "coactive": ("jaccard", "correlation", "pmi")}
    for kind, measures in kinds.items():
        site, number = (tables.rows(f"{kind}_{name}", start, stop).tolist() for name in ("site", "feature"))
        values = {name: tables.rows(f"{kind}_{name}", start, stop) for name in measures}
        for i, own in enumerate(found):
            kept = [k for k, one in enumerate(number[i]) if one >= 0]
            own[kind] = {"site": [site[i][k] for k in kept], "feature": [number[i][k] for k in kept]}
            own[kind] |= {name: _numbers(value[i][kept]) for name, value in values.items()}
    for own, cluster in zip(found, tables.rows("cluster", start, stop).tolist(), strict=True):
        own["cluster"] = cluster


def _cluster(analysis: Analysis, texts: Texts, cluster: Mapping[str, Any]) -> dict[str, Any]:
    members = [
        [site if isinstance(site, int) else analysis.site_names.index(site), feature]
        for site, feature in cluster["members"]
    ]
    examples = texts.place(np.asarray(cluster.get("examples", []), dtype=np.int64)).tolist()
    return {"id": cluster["id"], "size": cluster["size"], "members": members, "examples": examples}


def _steps(values: Array) -> tuple[list[int], float]:
    """Whole numbers, and the unit to multiply them with."""
    unit = float(np.abs(values).max(initial=0.0)) / STEPS or 1.0
    return np.rint(values / unit).astype(np.int64).tolist(), float(f"{unit:.5g}")


def _numbers(values: Array, digits: int = 3) -> list[float | None]:
    """To so many digits; None for what is missing."""
    return [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in values.tolist()]


def _plain(value: Any) -> Any:
    """What JSON can hold: NaN is None."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value
