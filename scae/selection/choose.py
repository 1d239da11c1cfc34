"""The choice of connections, and the numbers that describe it."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from scae.config import ConfigError, Connectivity
from scae.connections import Connections, Inputs
from scae.lm import Trace
from scae.selection.scores import chunks, mean_contributions, record
from scae.sites import Site
from scae.suite import Suite
from scae.typing import Bool, Float, Tensor

log = logging.getLogger(__name__)
Score = Callable[[Site, slice], Float[Tensor, "down up"]]


def choose(
    config: Connectivity, suite: Suite, traces: Iterable[Trace], *, seed: int
) -> tuple[Connections, dict[str, float]]:
    """The connections that `config` asks for, and `connectivity/*` statistics.

    traces: a sample of the training text, read only where the method measures contributions.
    """
    layout = suite.layout
    kept: dict[str, float] = {}
    if config.method == "none" or (config.C == 0 and config.method in ("contribution", "random")):
        connections = Connections.none(layout)
    elif config.method == "all":
        connections = Connections.complete(layout)
    elif config.method == "file":
        connections = _from_file(config, suite)
    elif config.method == "random":
        generator = torch.Generator().manual_seed(seed)
        device = suite.lm.device

        def uniform(site: Site, rows: slice) -> Tensor:
            shape = (rows.stop - rows.start, layout.n_upstream(site))
            return torch.rand(shape, generator=generator).to(device) + 1e-6  # 0 would mean "no contribution"

        connections, _ = _strongest(config, suite, uniform)
    else:
        records = record(suite, traces)

        def contribution(site: Site, rows: slice) -> Tensor:
            return mean_contributions(suite, site, rows, records, config.weighting)

        connections, kept = _strongest(config, suite, contribution)
    return connections, {"connectivity/C": float(config.C)} | describe(connections) | kept


def _strongest(config: Connectivity, suite: Suite, score: Score) -> tuple[Connections, dict[str, float]]:
    """Per feature, the C upstream features of the largest |score|, and the share of the total that they hold."""
    layout = suite.layout
    inputs: dict[Site, Inputs] = {}
    kept: dict[str, float] = {}
    for site in layout.sites:
        if not layout.n_upstream(site):
            continue
        downs, ups, held, whole = [], [], 0.0, 0.0
        for rows in chunks(suite, site, config.chunk_mb):
            scores = score(site, rows).abs()
            chosen = _top(scores, config.C, suite, site if config.scope == "per_site" else None)
            down, up = chosen.nonzero(as_tuple=True)
            downs.append(down + rows.start)
            ups.append(up)
            held, whole = held + float(scores[chosen].sum()), whole + float(scores.sum())
        inputs[site] = Inputs.from_pairs(torch.cat(downs).cpu(), torch.cat(ups).cpu(), layout.size(site))
        kept[f"connectivity/kept/{site}"] = held / whole if whole else 1.0
    return Connections(layout, inputs), kept


def _top(scores: Float[Tensor, "down up"], C: int, suite: Suite, by_site_of: Site | None) -> Bool[Tensor, "down up"]:
    """The C largest of each row, over all columns or over those of each upstream site; zeros are never chosen."""
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    if by_site_of is None:
        blocks = [slice(0, scores.shape[1])]
    else:
        upstream = suite.layout.upstream(by_site_of)
        blocks = [slice(o := suite.layout.offset(up), o + suite.layout.size(up)) for up in upstream]
    for block in blocks:
        part = scores[:, block]
        chosen[:, block] = chosen[:, block].scatter(1, part.topk(min(C, part.shape[1]), dim=1).indices, True)
    return chosen & (scores > 0)


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
