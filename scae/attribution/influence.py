"""How much each node has to do with the logits, and what of a graph is worth showing (Ameisen et al. 2025).

    A[t, s]    |edge from s to t| over the sum of them into t, biases apart: a row says where t comes from
    B          = A + A^2 + ... = (I - A)^-1 - I
    influence  = w B                                     w the probabilities of the logits

A graph has levels and no edge stays in one, so B is never made: from the last level down each node hands on what it
has (back substitution). Thresholds are those of circuit-tracer: the fewest nodes that hold 0.8 of the influence of all,
then of what is left the fewest edges that hold 0.98 of theirs, then whatever has lost its way in or out is taken away.

Biases are no part of A, as there: they are constants, and a node would seem to come from them above all.
"""

from typing import NamedTuple

import torch

from scae.attribution.links import Links
from scae.attribution.nodes import Nodes
from scae.core.typing import Bool, Float, Tensor


class Scores(NamedTuple):
    """replacement: the share of tokens in the influence of tokens and errors; completeness: how much of what nodes read
    is no error, weighted by influence. The strict ones also count as error what the plain pass would add to each
    pre-activation, |plain - pruned|: connections that were cut, and errors upstream. constant: the share of biases in
    the absolute edges into features and logits, weighted by influence."""

    replacement: float
    completeness: float
    strict_replacement: float
    strict_completeness: float
    constant: float


class Kept(NamedTuple):
    node: Bool[Tensor, " node"]
    edge: Bool[Tensor, " edge"]


def normalised(nodes: Nodes, links: Links, more: Float[Tensor, " node"] | None = None) -> Float[Tensor, " edge"]:
    """A, at the edges; 0 at those of biases. more: what else each node reads."""
    size = torch.where(nodes.of("bias")[links.source], 0, links.weight.abs().double())
    total = size.new_zeros(len(nodes)) if more is None else more.double().clone()
    total.index_add_(0, links.target, size)
    return size / total[links.target].clamp_min(1e-30)


def handed_on(
    nodes: Nodes, links: Links, share: Float[Tensor, " edge"], start: Float[Tensor, " node"]
) -> Float[Tensor, " node"]:
    """w B for w = `start` and A = `share`, by levels."""
    out = torch.zeros_like(start)
    level = nodes.level[links.target]
    source, target = links.source, links.target
    if bool((level.diff() < 0).any()):  # a graph that was just made has its edges in order
        order = level.argsort(stable=True)
        source, target, share = source[order], target[order], share[order]
    end = len(level)
    for size in reversed(torch.bincount(level).tolist()):
        part = slice(end - size, end)
        end -= size
        out.index_add_(0, source[part], share[part] * (out + start)[target[part]])
    return out


def influence(nodes: Nodes, links: Links) -> Float[Tensor, " node"]:
    """Of each node on the logits."""
    return handed_on(nodes, links, normalised(nodes, links), nodes.probability.double())


def scores(nodes: Nodes, links: Links) -> Scores:
    left_out = torch.where(nodes.of("feature"), (nodes.plain - nodes.preactivation).abs(), 0)
    lenient, strict = (_scores(nodes, links, more) for more in (torch.zeros_like(left_out), left_out))
    size = links.weight.abs().double()
    total, constant = size.new_zeros(len(nodes)), size.new_zeros(len(nodes))
    total.index_add_(0, links.target, size)
    constant.index_add_(0, links.target, torch.where(nodes.of("bias")[links.source], size, 0))
    weight = (influence(nodes, links) + nodes.probability) * nodes.of("feature", "logit")
    return Scores(*lenient, *strict, float((weight * constant / total.clamp_min(1e-30)).sum() / weight.sum()))


def _scores(nodes: Nodes, links: Links, left_out: Float[Tensor, " node"]) -> tuple[float, float]:
    """Replacement and completeness, as if what is left out of each node were an error node of its own."""
    share, start = normalised(nodes, links, left_out), nodes.probability.double()
    found = handed_on(nodes, links, share, start)
    reached = found + start
    told = found.new_zeros(len(nodes)).index_add(0, links.target, share)  # 1, less the share of what is left out
    beside = (reached * torch.where(left_out > 0, 1 - told, 0)).sum()
    error, token = found[nodes.of("error")].sum() + beside, found[nodes.of("token")].sum()
    total = reached.sum() + beside
    return float(token / (token + error).clamp_min(1e-30)), float((total - error) / total)


def cut(nodes: Nodes, links: Links, *, node_threshold: float, edge_threshold: float) -> Kept:
    """What holds these shares of the influence. Tokens and logits always stay; a bias does where an edge of it does."""
    for name, value in (("node_threshold", node_threshold), ("edge_threshold", edge_threshold)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value}: a share of the influence, 0 to 1")
    ends, bias, feature = nodes.of("token", "logit"), nodes.of("bias"), nodes.of("feature")
    found, start = influence(nodes, links), nodes.probability.double()
    node = (found >= _least(found, node_threshold)) | ends | bias
    inside = node[links.source] & node[links.target]
    left = Links(links.source, links.target, torch.where(inside, links.weight, 0))
    share = normalised(nodes, left)
    reached = handed_on(nodes, left, share, start) + start
    score = share * reached[links.target]
    least = _least(score, edge_threshold)
    constant = bias[links.source]
    beside = left.weight.abs().double() / _total(nodes, left)[links.target]
    edge = inside & torch.where(constant, beside * reached[links.target] >= least, score >= least)
    reads = torch.zeros_like(node)
    reads[links.target[~constant]] = True  # some features read constants alone
    while True:
        before = node
        node = (
            node
            & (ends | _any(edge, links.source, node))
            & (~feature | ~reads | _any(edge & ~constant, links.target, node))
        )
        edge = edge & node[links.source] & node[links.target]
        if torch.equal(node, before):
            return Kept(node, edge)


def cumulative(found: Float[Tensor, " node"]) -> Float[Tensor, " node"]:
    """For each node the share of influence that it and all nodes of more influence hold: what a slider cuts at."""
    order = found.argsort(descending=True, stable=True)
    out = torch.empty_like(found)
    out[order] = found[order].cumsum(0) / found.sum().clamp_min(1e-30)
    return out


def _least(found: Float[Tensor, " some"], share: float) -> Tensor:
    """The smallest of the fewest largest that hold this share of all."""
    ordered = found.sort(descending=True).values
    if not len(ordered):
        return found.new_zeros(())
    held = ordered.cumsum(0) / ordered.sum().clamp_min(1e-30)
    return ordered[min(int(torch.searchsorted(held, share)), len(ordered) - 1)]


def _total(nodes: Nodes, links: Links) -> Float[Tensor, " node"]:
    size = links.weight.abs().double()
    return size.new_zeros(len(nodes)).index_add(0, links.target, size).clamp_min(1e-30)


def _any(edge: Bool[Tensor, " edge"], end: Tensor, node: Bool[Tensor, " node"]) -> Bool[Tensor, " node"]:
    """Which nodes are at this end of one of these edges."""
    out = torch.zeros_like(node)
    out[end[edge]] = True
    return out
