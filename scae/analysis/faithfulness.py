"""Are the connections what they say? An upstream feature is changed in the live model, and a downstream one looked at.

A connection from feature j to feature i says: what j writes at token t moves the pre-activation of i by

    predicted   c V_ij / s(t)                             c: by how much the activation of j is changed
                c sum_h V_ij^h A_h(q, t) / s(t)           at an attention site, at each query q

Here c D_j is added to what the module of j writes, in the model itself, at a token where j fires; c = step x f_j(t).
The model runs on, everything behind reacts, and the dictionary of i reads what it now finds:

    live        E_i . (what is read there now - what was read before)
    frozen      the same of the stream that now reaches the module of i, read with the scales and patterns of before

So `frozen` differs from `predicted` by the modules between the two, which react to the change: where none stands
between (distance 1), they are equal up to rounding, and an edge into a site is no approximation. `live` differs from
`frozen` by the normalisation and the attention pattern of the module of i, which react as well. A prediction is
compared where it is largest: at t itself, or at the query that it says moves most; the measured change has no say.

One change a window, all downstream features of it at once: a run of the model serves as many edges as its windows'
features have. Connections from the embedding and into the unembedding are left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from scae.analysis.foretold import Effects
from scae.analysis.interventions import (
    Change,
    falling_into,
    first_rows,
    in_parts,
    run_with,
    windows_of,
    written_by,
)
from scae.connections import Connections
from scae.core.typing import Float, Int, Stream, Tensor
from scae.lm import Module, Trace
from scae.selection import Traces
from scae.sites import Site
from scae.suite import Mode, Suite

SHARE = 4  # of the edges wanted a pair of sites, one upstream feature for so many
RUN = 4096  # tokens that the changed model runs on at a time


@torch.no_grad()
def effects(
    suite: Suite,
    traces: Traces,
    *,
    edges: int = 400,
    seed: int = 0,
    mode: Mode = "plain",
    connections: Connections | None = None,
    tokens: int = 1,
    step: float = 1.0,
) -> list[Effects]:
    """Interventions on at most `edges` connections of each pair of sites.

    traces: called twice; mode: the pass whose activations say where a feature fires, and how strongly; connections:
    those that are tried, of the suite where none are given (`scae.selection.shuffled` makes the random twin); tokens:
    at which each upstream feature is changed, drawn from those where it fires; step: the change, in activations.

    The edges of edges / 4 upstream features of each site are tried, drawn among those that fire: an intervention costs
    a run of the model on a window, whatever the number of edges.
    """
    suite.demand_paths()
    connections = suite.connections if connections is None else connections
    generator = torch.Generator().manual_seed(seed)
    with suite.inference():
        counts = {site: torch.zeros(suite.layout.size(site), dtype=torch.long) for site in suite.sites}
        for trace in traces():
            for site, code in suite(trace, mode=mode).codes.items():
                counts[site] += torch.bincount(code.col[code.value > 0].cpu(), minlength=len(counts[site]))
        features = {
            site: _drawn(_sends(suite, connections, site) & (counts[site] > 0), -(-edges // SHARE), generator)
            for site in suite.sites
        }
        # which of its firings, counted through the text
        ranks = {
            site: (torch.rand(len(own), tokens, generator=generator).double() * counts[site][own, None]).long()
            for site, own in features.items()
        }
        pairs = [
            _pair(suite, connections, up, down, features[up], edges, generator)
            for down in suite.sites
            for up in suite.layout.upstream(down)
            if up in suite
        ]
        pairs = [pair for pair in pairs if len(pair.down)]
        measured: list[list[Measured]] = [[] for _ in pairs]
        seen = {site: torch.zeros_like(own) for site, own in counts.items()}
        for trace in traces():
            codes = suite(trace, mode=mode).codes
            changes = [
                falling_into(codes[site], site, features[site], ranks[site], seen[site], step) for site in suite.sites
            ]
            _measure(suite, trace, [one for one in changes if len(one.token)], pairs, measured)
    empty = torch.zeros(0)
    return [
        Effects(pair.up, pair.down_site, pair.distance, len(pair.down), *(
            torch.cat([empty, *(getattr(one, name).cpu() for one in parts)]) for name in Measured._fields
        ))
        for pair, parts in zip(pairs, measured, strict=True)
    ]  # fmt: skip


class Pair(NamedTuple):
    """The edges between two sites that are tried. ptr: `[drawn + 1]` where those of each upstream feature begin;
    down: their downstream ends; weight: virtual weights by head, of the stream, as `VirtualWeights.weights`."""

    up: Site
    down_site: Site
    distance: int
    ptr: Int[Tensor, " drawn_plus_1"]
    down: Int[Tensor, " edge"]
    weight: Float[Tensor, "edge head"]


class Measured(NamedTuple):
    predicted: Float[Tensor, " effect"]
    live: Float[Tensor, " effect"]
    frozen: Float[Tensor, " effect"]


def _sends(suite: Suite, connections: Connections, site: Site) -> Tensor:
    """Which features of a site some other is connected to."""
    sends = torch.zeros(sum(suite.layout.sizes), dtype=torch.bool)
    for down in suite.sites:
        sends[connections[down].up.cpu().long()] = True
    start = suite.layout.offset(site)
    return sends[start : start + suite.layout.size(site)]


def _drawn(candidates: Tensor, count: int, generator: torch.Generator) -> Int[Tensor, " drawn"]:
    features = candidates.nonzero()[:, 0]
    return features[torch.randperm(len(features), generator=generator)[:count]].sort().values


def _pair(
    suite: Suite,
    connections: Connections,
    up: Site,
    down_site: Site,
    features: Int[Tensor, " drawn"],
    edges: int,
    generator: torch.Generator,
) -> Pair:
    layout, incoming, path = suite.layout, connections[down_site], suite.path(down_site)
    place = torch.full((sum(layout.sizes),), -1)
    place[layout.offset(up) + features] = torch.arange(len(features))
    drawn, down = place[incoming.up.cpu().long()], incoming.down.cpu()
    kept = _drawn(drawn >= 0, edges, generator)
    kept = kept[torch.argsort(drawn[kept], stable=True)]
    drawn, down = drawn[kept], down[kept]
    reads, writes = suite.reads(down_site), suite.writes(up, down_site.module)
    device = reads.rows.device
    read = path.readers(reads.rows[down.to(device)])
    written = path.writers(writes.rows[features[drawn].to(device)] * writes.scale)
    level = {module: number for number, level in enumerate(suite.lm.paths.levels) for module in level}
    ptr = torch.cat([torch.zeros(1, dtype=torch.long), torch.bincount(drawn, minlength=len(features)).cumsum(0)])
    distance = level[down_site.module] - level[up.module]
    return Pair(up, down_site, distance, ptr.to(device), down.to(device), (read * written).sum(-1))


def _measure(
    suite: Suite, trace: Trace, changes: Sequence[Change], pairs: Sequence[Pair], measured: list[list[Measured]]
) -> None:
    """Make these changes, and add what they did to `measured`, pair by pair."""
    if not changes:
        return
    readers = list(dict.fromkeys(pair.down_site for pair in pairs))
    before, wrote_before = run_with(suite, trace, {}, readers)
    movers = {site: suite.path(site).mover(trace, suite.reads(site).scale) for site in readers}
    n_pos = trace.tokens.shape[1]
    for part in in_parts(changes, max(1, RUN // n_pos)):
        windows = torch.cat([one.token // n_pos for one in part])
        there = windows_of(trace, windows)
        starts = dict(zip((one.site for one in part), first_rows(part), strict=True))
        after, wrote = run_with(suite, there, written_by(suite, part, n_pos), readers)
        by_site = {one.site: one for one in part}
        for site, stream in _moved(suite, readers, wrote, wrote_before, windows):
            path, unit = suite.path(site), suite.reads(site).scale
            still = path.read(torch.zeros_like(stream[:1]), windows_of(trace, windows[:1]))
            frozen = path.read(stream, there) - still
            for pair, into in zip(pairs, measured, strict=True):
                if pair.down_site != site or pair.up not in by_site:
                    continue
                change = by_site[pair.up]
                counts = pair.ptr.diff()[change.drawn]
                at = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
                first = pair.ptr[change.drawn][at] - (counts.cumsum(0) - counts)[at]
                edge = first + torch.arange(len(at), device=at.device)
                predicted, query = _predicted(movers[site], change, pair.weight[edge], at, trace)
                row = at + starts[pair.up]
                encoder = suite.reads(site).rows[pair.down[edge]] / unit
                live = after[site][row, query] - before[site][windows[row], query]
                into.append(Measured(predicted, (encoder * live).sum(-1), (encoder * frozen[row, query]).sum(-1)))


def _predicted(
    mover: Tensor, change: Change, weight: Float[Tensor, "effect head"], at: Int[Tensor, " effect"], trace: Trace
) -> tuple[Float[Tensor, " effect"], Int[Tensor, " effect"]]:
    """What each edge foretells, and at which position of the window."""
    n_pos = trace.tokens.shape[1]
    token, size = change.token[at], change.size[at]
    if mover.ndim == 1:
        return size * weight[:, 0] * mover[token], token % n_pos
    window, key = token // n_pos, token % n_pos
    by_query = size[:, None] * torch.einsum("eqh,eh->eq", mover[window, :, key], weight)
    later = (torch.arange(n_pos, device=key.device) >= key[:, None]) & trace.live[window]
    query = by_query.abs().masked_fill(~later, -1.0).argmax(1)
    return by_query.gather(1, query[:, None])[:, 0], query


def _moved(
    suite: Suite,
    readers: Sequence[Site],
    wrote: Mapping[Module, Stream],
    before: Mapping[Module, Float[Tensor, "window pos d_model"]],
    windows: Int[Tensor, " row"],
) -> Iterator[tuple[Site, Stream]]:
    """By how much the stream has changed that reaches the module of each site; in order."""
    by_module = {site.module: site for site in readers}
    change = torch.zeros_like(wrote[suite.lm.paths.modules[0]])
    for level in suite.lm.paths.levels:
        for module in level:
            if module in by_module:
                yield by_module[module], change
        for module in level:
            change = change + (wrote[module] - before[module][windows])
