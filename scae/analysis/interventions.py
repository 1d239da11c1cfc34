"""Features of the live model are changed: what a decoder row writes is added to what its module writes, and it runs on.

One change a row: a window of the text with one feature changed at one of its tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from scae.core.typing import Float, Int, Stream, Tensor
from scae.kernels import SparseCode, Support
from scae.lm import Module, Trace
from scae.sites import Site
from scae.suite import Suite


class Change(NamedTuple):
    """Changes of features of one site: which of the features drawn, at which token of a batch, by how much."""

    site: Site
    drawn: Int[Tensor, " change"]
    feature: Int[Tensor, " change"]
    token: Int[Tensor, " change"]
    size: Float[Tensor, " change"]


def falling_into(
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


def in_parts(changes: Sequence[Change], count: int) -> Iterator[list[Change]]:
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


def first_rows(changes: Sequence[Change]) -> list[int]:
    """At which row the changes of each site begin."""
    starts = [0]
    for one in changes:
        starts.append(starts[-1] + len(one.token))
    return starts[:-1]


Added = dict[Module, list[tuple[Int[Tensor, " row"], Int[Tensor, " row"], Float[Tensor, "row d_model"]]]]
"""What is added to what modules write: at which rows and positions, and what."""


def written_by(suite: Suite, changes: Sequence[Change], n_pos: int) -> Added:
    """What the changed features write more, at the modules of their sites and of later layers."""
    added: Added = {}
    for one, start in zip(changes, first_rows(changes), strict=True):
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


def run_with(
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


def windows_of(trace: Trace, windows: Int[Tensor, " row"]) -> Trace:
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
