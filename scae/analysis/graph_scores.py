"""How much of a graph of a prompt is explained, in two numbers (Ameisen et al. 2025, "Circuit Tracing").

    A[target, source] = |edge|, the inputs of each node summing to 1
    B = (I - A)^-1 - I = A + A^2 + ...            how much of a node reaches another, along all paths
    w = p B                                       influence of each node on the logits, p: their probabilities

    replacement    sum_tokens w / (sum_tokens w + sum_errors w)          what comes from tokens and not from errors
    completeness   sum_n (w_n + p_n) (1 - sum_errors A[n, error]) / sum_n (w_n + p_n)      how well inputs are explained

A node without inputs explains nothing further: its row of A is 0. Scores are 1 without errors.
"""

from typing import NamedTuple

import torch

from scae.core.typing import Bool, Float, Tensor


class Scores(NamedTuple):
    replacement: float
    completeness: float


def scores(
    adjacency: Float[Tensor, "node node"],
    *,
    probability: Float[Tensor, " node"],
    tokens: Bool[Tensor, " node"],
    errors: Bool[Tensor, " node"],
) -> Scores:
    """adjacency: `[target, source]`, of either sign, acyclic, dense or sparse; probability: of the logit nodes, 0 of
    all others; tokens, errors: which nodes these are. NaN where nothing reaches the logits. Raises ValueError for a
    graph with a cycle."""
    shares = normalised(adjacency)
    weight = probability.to(shares.dtype)
    reach = influence(shares, weight)
    explained = 1 - (shares @ errors.to(shares.dtype)[:, None])[:, 0]
    from_tokens, from_errors, everything = reach[tokens].sum(), reach[errors].sum(), reach + weight
    return Scores(
        float(from_tokens / (from_tokens + from_errors)), float((explained * everything).sum() / everything.sum())
    )


def influence(shares: Float[Tensor, "node node"], weight: Float[Tensor, " node"]) -> Float[Tensor, " node"]:
    """`weight B`, step by step: an acyclic graph is done after as many steps as it has nodes in a row."""
    total, now = torch.zeros_like(weight), weight
    back = shares.T
    for _ in range(len(weight)):
        now = (back @ now[:, None])[:, 0]
        if not now.any():
            return total
        total = total + now
    raise ValueError("the graph has a cycle: influence along it never ends")


def normalised(adjacency: Float[Tensor, "node node"]) -> Float[Tensor, "node node"]:
    """|edge| over the sum of the inputs of its target, in float64."""
    size = adjacency.double().abs()
    whole = size.sum(1).to_dense() if size.is_sparse else size.sum(1)
    inverse = torch.where(whole > 0, 1 / whole, 0.0)
    if not size.is_sparse:
        return size * inverse[:, None]
    size = size.coalesce()
    return torch.sparse_coo_tensor(
        size.indices(), size.values() * inverse[size.indices()[0]], size.shape, check_invariants=True
    )
