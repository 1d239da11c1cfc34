"""The choice of connections, and the numbers that describe it."""

from pathlib import Path

import torch

from scae.config import ConfigError, Connectivity
from scae.connections import Connections, Inputs
from scae.core.typing import Float, Tensor
from scae.selection.budgets import Candidates, Chosen, by_score, even, strongest
from scae.selection.contributions import chunks
from scae.selection.sample import Traces
from scae.selection.scores import SCORES, Score
from scae.sites import Site
from scae.suite import Suite

DRAWN = 1 << 24  # random numbers held at a time


def choose(config: Connectivity, suite: Suite, traces: Traces, *, seed: int) -> tuple[Connections, dict[str, float]]:
    """The connections that `config` asks for, and `connectivity/*` statistics.

    traces: runs over a sample of the training text, called only where the method measures something: once for every few
    layers whose attention patterns fit `chunk_mb` (`scae.selection.sample` says what is held).
    """
    layout = suite.layout
    kept: dict[str, float] = {}
    if config.method == "none" or (config.C == 0 and config.method in SCORES):
        connections = Connections.none(layout)
    elif config.method == "all":
        connections = Connections.complete(layout)
    elif config.method == "file":
        connections = _from_file(config, suite)
    else:
        connections, kept = _by_score(config, suite, SCORES[config.method](config, suite, traces, seed=seed))
    return connections, {"connectivity/C": float(config.C)} | describe(connections) | kept


def _by_score(config: Connectivity, suite: Suite, score: Score) -> tuple[Connections, dict[str, float]]:
    """The strongest within the budget, and the share of all scores that they hold."""
    weights = {}
    if config.budget == "by_score" and config.scope == "joint":
        reading = (site for site in suite.layout.sites if suite.layout.n_upstream(site))
        weights = {site: weight for site in reading if (weight := score.importance(site)) is not None}
    if weights:
        candidates = _candidates(config, suite, score, config.C * config.spread)
        sharing = {site: these for site, these in candidates.items() if site in weights}
        chosen = by_score(sharing, weights, config.C, config.spread)
        chosen |= {site: strongest(these, config.C) for site, these in candidates.items() if site not in weights}
    else:
        candidates = _candidates(config, suite, score, config.C)
        chosen = even(candidates)
    return _connections(suite, candidates, chosen), _kept(candidates, chosen) if score.measured else {}


def _candidates(config: Connectivity, suite: Suite, score: Score, count: int) -> dict[Site, Candidates]:
    """Per feature, the `count` upstream features of the largest |score|, from all sites together or from each."""
    layout = suite.layout
    found = {}
    for site in layout.sites:
        if not layout.n_upstream(site):
            continue
        blocks = [slice(0, layout.n_upstream(site))]
        if config.scope == "per_site":
            blocks = [slice(o := layout.offset(up), o + layout.size(up)) for up in layout.upstream(site)]
        parts, whole = [], 0.0
        for rows in chunks(suite, site, config.chunk_mb, tokens=score.batch_tokens):
            scores = score(site, rows).abs()
            whole += float(scores.sum())
            parts.append([_largest(scores[:, block], count, block.start) for block in blocks])
        sizes, ups = (torch.cat([torch.cat([best[i] for best in part], dim=1) for part in parts]).cpu() for i in (0, 1))
        found[site] = Candidates(sizes, ups, whole)
    return found


def _largest(scores: Float[Tensor, "down up"], count: int, first: int) -> tuple[Tensor, Tensor]:
    """The largest of each row, and which upstream features those are where the columns begin with `first`."""
    best = scores.topk(min(count, scores.shape[1]), dim=1)
    return best.values, best.indices + first


def _connections(suite: Suite, candidates: dict[Site, Candidates], chosen: Chosen) -> Connections:
    inputs = {}
    for site, these in candidates.items():
        down, _ = chosen[site].nonzero(as_tuple=True)
        inputs[site] = Inputs.from_pairs(down, these.up[chosen[site]], suite.layout.size(site))
    return Connections(suite.layout, inputs)


def _kept(candidates: dict[Site, Candidates], chosen: Chosen) -> dict[str, float]:
    """The share of all scores that the choice holds."""
    return {
        f"connectivity/kept/{site}": float(these.score[chosen[site]].sum()) / these.whole if these.whole else 1.0
        for site, these in candidates.items()
    }


def _from_file(config: Connectivity, suite: Suite) -> Connections:
    try:
        connections = Connections.load(Path(config.path or ""))
    except ValueError as error:
        raise ConfigError(f"connectivity.path={config.path}: {error}") from error
    if connections.layout != suite.layout:
        raise ConfigError(
            f"connectivity.path={config.path}: made for {connections.layout}, this experiment has {suite.layout}"
        )
    return connections


def shuffled(connections: Connections, *, seed: int) -> Connections:
    """As many connections into each feature, from upstream features drawn at random: the control of a choice."""
    layout = connections.layout
    generator = torch.Generator().manual_seed(seed)
    inputs = {}
    for site in layout.sites:
        degrees = connections[site].crow.diff().long()
        downs, ups = [], []
        for start in range(0, len(degrees), step := max(1, DRAWN // max(1, layout.n_upstream(site)))):
            wanted = degrees[start : start + step]
            drawn = torch.rand(len(wanted), layout.n_upstream(site), generator=generator).topk(int(wanted.max()), dim=1)
            down, rank = (torch.arange(drawn.indices.shape[1]) < wanted[:, None]).nonzero(as_tuple=True)
            downs.append(down + start)
            ups.append(drawn.indices[down, rank])
        inputs[site] = Inputs.from_pairs(torch.cat(downs), torch.cat(ups), layout.size(site))
    return Connections(layout, inputs)


def describe(connections: Connections) -> dict[str, float]:
    """Degrees, density and where connections come from, over features that have an upstream."""
    layout = connections.layout
    stats: dict[str, float] = {}
    in_degrees, out_degrees = [], torch.zeros(sum(layout.sizes), dtype=torch.long)
    possible = 0
    for site in layout.sites:
        n_up = layout.n_upstream(site)
        if not n_up:
            continue
        possible += n_up * layout.size(site)
        if connections.is_complete:
            in_degrees.append(torch.full((layout.size(site),), n_up))
            out_degrees[:n_up] += layout.size(site)
            continue
        inputs = connections[site]
        in_degrees.append(inputs.crow.diff().long())
        out_degrees += torch.bincount(inputs.up.long(), minlength=len(out_degrees))
        for up in layout.upstream(site):
            start = layout.offset(up)
            inside = (inputs.up >= start) & (inputs.up < start + layout.size(up))
            stats[f"connectivity/from/{site}/{up}"] = float(inside.sum()) / max(1, len(inputs))
    degrees = torch.cat(in_degrees) if in_degrees else torch.zeros(1, dtype=torch.long)
    for name, values in (("in_degree", degrees), ("out_degree", out_degrees)):
        stats[f"connectivity/{name}_mean"] = float(values.double().mean())
        stats[f"connectivity/{name}_median"] = float(values.double().median())
        stats[f"connectivity/{name}_max"] = float(values.max())
    stats["connectivity/edges"] = float(len(connections))
    stats["connectivity/density"] = len(connections) / max(1, possible)
    return stats
