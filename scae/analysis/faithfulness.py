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

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from scae.connections import Connections
from scae.core.typing import Float, Int, Stream, Tensor
from scae.kernels import SparseCode, Support
from scae.lm import Module, Trace
from scae.selection import Traces
from scae.sites import Site
from scae.suite import Mode, Suite

SHARE = 4  # of the edges wanted a pair of sites, one upstream feature for so many
RUN = 4096  # tokens that the changed model runs on at a time


@dataclass(frozen=True)
class Effects:
    """What changing features of `up` did to features of `down`, an edge and a token at a time.

    distance: levels of modules from the one to the other; 1: nothing between them; edges: how many different ones.
    """

    up: Site
    down: Site
    distance: int
    edges: int
    predicted: Float[Tensor, " effect"]
    live: Float[Tensor, " effect"]
    frozen: Float[Tensor, " effect"]


def faithfulness(
    suite: Suite,
    traces: Traces,
    *,
    edges: int = 400,
    seed: int = 0,
    mode: Mode = "plain",
    connections: Connections | None = None,
    tokens: int = 1,
    step: float = 1.0,
) -> list[dict[str, Any]]:
    """A row for each pair of sites: how well edges foretell what an intervention does. See `effects`, `agreement`."""
    found = effects(suite, traces, edges=edges, seed=seed, mode=mode, connections=connections, tokens=tokens, step=step)
    return [{"up": str(one.up), "down": str(one.down)} | _row([one]) for one in found]


def by_distance(found: Iterable[Effects]) -> list[dict[str, Any]]:
    """The same, all pairs of one distance together."""
    groups: dict[int, list[Effects]] = {}
    for one in found:
        groups.setdefault(one.distance, []).append(one)
    return [_row(groups[distance]) for distance in sorted(groups)]


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
                _changes(codes[site], site, features[site], ranks[site], seen[site], step) for site in suite.sites
            ]
            _measure(suite, trace, [one for one in changes if len(one.token)], pairs, measured)
    empty = torch.zeros(0)
    return [
        Effects(pair.up, pair.down_site, pair.distance, len(pair.down), *(
            torch.cat([empty, *(getattr(one, name).cpu() for one in parts)]) for name in Measured._fields
        ))
        for pair, parts in zip(pairs, measured, strict=True)
    ]  # fmt: skip


class Change(NamedTuple):
    """Changes of features of one site: which of the features drawn, at which token of a batch, by how much."""

    site: Site
    drawn: Int[Tensor, " change"]
    feature: Int[Tensor, " change"]
    token: Int[Tensor, " change"]
    size: Float[Tensor, " change"]


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


def _changes(
    code: SparseCode,
    site: Site,
    features: Int[Tensor, " drawn"],
    ranks: Int[Tensor, "drawn rank"],
    seen: Int[Tensor, " feature"],
    step: float,
) -> Change:
    """The changes that fall into this batch. seen: how often each feature has fired before it; updated."""
    fires = code.value > 0
    col, row, value = (x[fires].cpu() for x in (code.col, code.row, code.value))
    order = torch.argsort(col, stable=True)
    ptr = torch.cat([torch.zeros(1, dtype=torch.long), torch.bincount(col, minlength=len(seen)).cumsum(0)])
    here = ranks - seen[features, None]
    inside = (here >= 0) & (here < ptr.diff()[features, None])
    drawn, which = inside.nonzero(as_tuple=True)
    at = order[ptr[features[drawn]] + here[drawn, which]]
    token, size = row[at], value[at] * step
    seen += ptr.diff()
    device = code.value.device
    return Change(site, *(x.to(device) for x in (drawn, features[drawn], token, size)))


def _measure(
    suite: Suite, trace: Trace, changes: Sequence[Change], pairs: Sequence[Pair], measured: list[list[Measured]]
) -> None:
    """Make these changes, and add what they did to `measured`, pair by pair."""
    if not changes:
        return
    readers = list(dict.fromkeys(pair.down_site for pair in pairs))
    before, wrote_before = _run(suite, trace, {}, readers)
    movers = {site: suite.path(site).mover(trace, suite.reads(site).scale) for site in readers}
    n_pos = trace.tokens.shape[1]
    for part in _parts(changes, max(1, RUN // n_pos)):
        windows = torch.cat([one.token // n_pos for one in part])
        there = _rows(trace, windows)
        starts = dict(zip((one.site for one in part), _starts(part), strict=True))
        after, wrote = _run(suite, there, _added(suite, part, n_pos), readers)
        by_site = {one.site: one for one in part}
        for site, stream in _moved(suite, readers, wrote, wrote_before, windows):
            path, unit = suite.path(site), suite.reads(site).scale
            still = path.read(torch.zeros_like(stream[:1]), _rows(trace, windows[:1]))
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


Added = dict[Module, list[tuple[Int[Tensor, " row"], Int[Tensor, " row"], Float[Tensor, "row d_model"]]]]
"""What is added to what modules write: at which rows and positions, and what."""


def _added(suite: Suite, changes: Sequence[Change], n_pos: int) -> Added:
    added: Added = {}
    for one, start in zip(changes, _starts(changes), strict=True):
        own = suite[one.site]
        n = len(one.token)
        code = SparseCode(
            Support(torch.arange(n + 1, device=one.feature.device), one.feature, own.n_features), one.size
        )
        rows, pos = torch.arange(start, start + n, device=one.token.device), one.token % n_pos
        written = [(one.site.module, own.decoder.without_bias(code) * own.writes.fixed)]
        written += [(Module(layer, one.site.module.kind), more) for layer, more in own.beyond(code)]
        for module, vectors in written:
            added.setdefault(module, []).append((rows, pos, vectors))
    return added


def _run(
    suite: Suite, trace: Trace, added: Added, readers: Sequence[Site]
) -> tuple[dict[Site, Stream], dict[Module, Stream]]:
    """What is read at the sites, and what modules write, in a live run with something added to what some write."""
    read_at: dict[Site, Stream] = {}
    by_module = {site.module: site for site in readers}

    def put(module: Module, read: Stream | None, wrote: Stream) -> Stream:
        if module in by_module:
            read_at[by_module[module]] = wrote if read is None else read
        if module in added:
            wrote = wrote.clone()
            for rows, pos, vectors in added[module]:
                wrote[rows, pos] += vectors
        return wrote

    wrote = suite.lm.splice(trace, put, readers={site.module for site in readers if site.transcoder})
    return read_at, wrote


def _starts(changes: Sequence[Change]) -> list[int]:
    starts = [0]
    for one in changes:
        starts.append(starts[-1] + len(one.token))
    return starts[:-1]


def _parts(changes: Sequence[Change], count: int) -> Iterator[list[Change]]:
    """The changes, `count` at a time."""
    part: list[Change] = []
    room = count
    for one in changes:
        start = 0
        while start < len(one.token):
            stop = min(start + room, len(one.token))
            part.append(Change(one.site, *(x[start:stop] for x in one[1:])))
            room, start = room - (stop - start), stop
            if not room:
                yield part
                part, room = [], count
    if part:
        yield part


def _rows(trace: Trace, windows: Int[Tensor, " row"]) -> Trace:
    """Some windows of a trace, any of them more than once."""
    patterns = trace.patterns
    return replace(
        trace,
        tokens=trace.tokens[windows],
        live=trace.live[windows],
        embed=trace.embed[windows],
        outputs={},
        scales={module: scale[windows] for module, scale in trace.scales.items()},
        patterns=None if patterns is None else {layer: one[windows] for layer, one in patterns.items()},
        documents=None if trace.documents is None else trace.documents[windows],
    )


def _row(found: Sequence[Effects]) -> dict[str, Any]:
    predicted, live, frozen = (torch.cat([getattr(one, name) for one in found]) for name in Measured._fields)
    row: dict[str, Any] = {"distance": found[0].distance, "edges": sum(one.edges for one in found)}
    row |= {"effects": len(predicted)} | agreement(predicted, live)
    row |= {f"frozen_{key}": value for key, value in agreement(predicted, frozen).items()}
    return row | {"predicted_size": _mean(predicted.abs()), "live_size": _mean(live.abs())}


def agreement(predicted: Float[Tensor, " effect"], found: Float[Tensor, " effect"]) -> dict[str, float | None]:
    """rank: Spearman's correlation, ties sharing their mean rank; r2: 1 - sum (found - predicted)^2 / sum (found -
    mean found)^2, of the prediction as it is and not of a line fitted to it; slope: sum found predicted / sum
    predicted^2, of the line through 0; sign: share in which both have the same sign. None where it has no value."""
    p, y = predicted.double(), found.double()
    none: dict[str, float | None] = {"rank": None, "r2": None, "slope": None, "sign": None}
    if len(p) < 3:
        return none
    variance, square = (y - y.mean()).square().sum(), p.square().sum()
    if variance > 0:
        none["r2"] = float(1 - (y - p).square().sum() / variance)
    if square > 0:
        none["slope"] = float((y * p).sum() / square)
        none["sign"] = float((p.sign() == y.sign()).double().mean())
    ours, theirs = (ranks - ranks.mean() for ranks in (_ranks(p), _ranks(y)))
    spread = ours.norm() * theirs.norm()
    if spread > 0:
        none["rank"] = max(-1.0, min(1.0, float((ours * theirs).sum() / spread)))
    return none


def _ranks(values: Float[Tensor, " value"]) -> Float[Tensor, " value"]:
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[inverse]


def _mean(values: Tensor) -> float | None:
    return float(values.double().mean()) if len(values) else None
