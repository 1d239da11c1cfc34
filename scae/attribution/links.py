"""The edges into the features of one site, or into logits, each with its exact contribution.

Node n of feature i reads, at position q, along the path of its site with frozen scales and patterns (`scae.lm.paths`):

    from feature j at k          f_j(k) sum_h V_ij^h M_h(q, k)                V the virtual weight, M the mover
    from a part x of the base    sum_h reader(E_i)^h . writer(x(k))^h M_h(q, k)

along its stored connections, and from every part of the base that it reads unpruned. At an MLP site k = q alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch

from scae.core.typing import Float, Int, Tensor
from scae.kernels.code import pointers
from scae.lm import Path, Trace
from scae.sites import Site
from scae.suite import Suite

CHUNK = 1 << 22  # numbers that a step holds at a time


class Links(NamedTuple):
    """Edges between nodes: `[edge]` each."""

    source: Int[Tensor, " edge"]
    target: Int[Tensor, " edge"]
    weight: Float[Tensor, " edge"]

    @classmethod
    def joined(cls, parts: Sequence["Links"]) -> "Links":
        return cls(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def nonzero(self) -> "Links":
        keep = self.weight != 0
        return Links(self.source[keep], self.target[keep], self.weight[keep])


class Readers(NamedTuple):
    """Nodes of one site: which they are, their features, and their positions, `[reader]` each."""

    node: Int[Tensor, " reader"]
    feature: Int[Tensor, " reader"]
    position: Int[Tensor, " reader"]

    def part(self, start: int, stop: int) -> "Readers":
        return Readers(*(column[start:stop] for column in self))


class Firing(NamedTuple):
    """What is active of one site: `[firing]` each. number: of the feature, counted through the suite."""

    site: Site
    feature: Int[Tensor, " firing"]
    number: Int[Tensor, " firing"]
    position: Int[Tensor, " firing"]
    node: Int[Tensor, " firing"]
    value: Float[Tensor, " firing"]

    def at(self, position: int) -> "Firing":
        keep = self.position == position
        return Firing(self.site, *(column[keep] for column in self[1:]))


@dataclass(frozen=True, eq=False)
class Active:
    """What is active at several sites, sorted by the number of the feature and by position.

    key: `[active]` number x n_pos + position.
    """

    key: Int[Tensor, " active"]
    node: Int[Tensor, " active"]
    value: Float[Tensor, " active"]
    n_pos: int

    @classmethod
    def joined(cls, firings: Sequence[Firing], n_pos: int) -> "Active":
        """Of one site at least."""
        key, order = torch.cat([one.number * n_pos + one.position for one in firings]).sort()
        node, value = (torch.cat([getattr(one, name) for one in firings])[order] for name in ("node", "value"))
        return cls(key, node, value, n_pos)

    def runs(
        self, number: Int[Tensor, " _"], first: Int[Tensor, " _"], last: Int[Tensor, " _"]
    ) -> tuple[Int[Tensor, " _"], Int[Tensor, " _"]]:
        """Where the activations of each feature at positions first..last begin, and how many there are."""
        start = torch.searchsorted(self.key, number * self.n_pos + first)
        stop = torch.searchsorted(self.key, number * self.n_pos + last, right=True)
        return start, stop - start


def from_features(suite: Suite, site: Site, trace: Trace, readers: Readers, upstream: Sequence[Firing]) -> Links:
    """The stored connections of these readers, wherever their upstream end is active."""
    edges = suite.virtual.edges(site)
    found = [Links(readers.node[:0], readers.node[:0], trace.embed.new_zeros(0))]
    if not len(edges) or not upstream:
        return found[0]
    active = Active.joined(upstream, trace.live.shape[1])
    path, scale = suite.path(site), suite.reads(site).scale
    mover = path.mover(trace, scale)
    weights = suite.virtual.weights(site)[edges.to_down.long()]
    crow, up = edges.down_ptr.long(), edges.up_by_down.long()
    degree = crow.diff()[readers.feature]
    for start, stop in _parts(degree * (active.n_pos if path.moves else 1)):
        one = readers.part(start, stop)
        reader, edge = _expand(crow[one.feature], degree[start:stop])
        query = one.position[reader]
        first, count = active.runs(up[edge], torch.zeros_like(query) if path.moves else query, query)
        pair, at = _expand(first, count)
        reader, edge, query = reader[pair], edge[pair], query[pair]
        if path.moves:
            moved = (weights[edge] * mover[0, query, active.key[at] % active.n_pos]).sum(1)
        else:
            moved = weights[edge, 0] * mover[query]
        found.append(Links(active.node[at], one.node[reader], moved * active.value[at]))
    return Links.joined(found)


def from_streams(
    path: Path,
    rows: Float[Tensor, "reader d_model"],
    mover: Float[Tensor, " token"] | Float[Tensor, "batch query key head"],
    readers: Readers,
    streams: Float[Tensor, "part pos d_model"],
) -> Float[Tensor, "reader part pos"]:
    """What each of these parts of the stream contributes, from each position. rows: what the readers look for, one
    row each; mover: see `scae.lm.paths.Path`."""
    n_parts, n_pos, _ = streams.shape
    writers = path.writers(streams.flatten(0, 1)).unflatten(0, (n_parts, n_pos))
    out = rows.new_zeros(len(rows), n_parts, n_pos)
    per_reader = torch.full_like(readers.node, n_parts * (n_pos if path.moves else rows.shape[1]) * writers.shape[2])
    for start, stop in _parts(per_reader):
        query, looking = readers.position[start:stop], path.readers(rows[start:stop])
        if path.moves:
            products = torch.einsum("nhr,ckhr->nckh", looking, writers)
            out[start:stop] = torch.einsum("nckh,nkh->nck", products, mover[0, query])
        else:
            products = torch.einsum("nr,cnr->nc", looking[:, 0], writers[:, query, 0]) * mover[query][:, None]
            out[start:stop].scatter_(2, query[:, None, None].expand(-1, n_parts, 1), products[..., None])
    return out


def links_of(
    contributions: Float[Tensor, "reader part pos"], readers: Readers, sources: Int[Tensor, "part pos"]
) -> Links:
    """As edges. sources: the node of each part at each position, -1 where there is none."""
    shape = contributions.shape
    target = readers.node[:, None, None].expand(shape)
    keep = (contributions != 0) & (sources >= 0)
    return Links(sources.expand(shape)[keep], target[keep], contributions[keep])


def _parts(costs: Int[Tensor, " item"]) -> list[tuple[int, int]]:
    """Runs of items, each of them about `CHUNK` in cost."""
    part = costs.cumsum(0) // CHUNK
    ends = [*(part.diff().nonzero()[:, 0] + 1).tolist(), len(costs)] if len(costs) else []
    return list(pairwise([0, *ends]))


def _expand(start: Int[Tensor, " run"], count: Int[Tensor, " run"]) -> tuple[Int[Tensor, " _"], Int[Tensor, " _"]]:
    """The run that each element of these runs belongs to, and the number that stands there."""
    run = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    within = torch.arange(len(run), device=count.device) - pointers(count)[run]
    return run, start[run] + within
