"""Projected gradient descent onto the codes of at most k activations, none below 0: iterative hard thresholding.

    f = H_k(f + a r W^T)        H_k: the k largest that are above 0, as they are (Blumensath and Davies 2009)
    a = ||g||^2 / ||g W||^2     g: W r^T at the features that are active; at first at the k that are most correlated

a is the best step as long as the active features stay (Blumensath and Davies 2010, "normalised"). Where they change,
the error could grow: such a step is not taken, and half of it is tried next.
"""

import torch

from scae.core.typing import Float, Int, Tensor
from scae.dictionaries.pursuit.supports import Supports


def projected(
    target: Float[Tensor, "token d_out"], rows: Float[Tensor, "feature d_out"], k: Int[Tensor, " token"], steps: int
) -> Supports:
    found = Supports(target, rows, k)
    share = target.new_ones(len(target), 1)
    for _ in range(steps if found.slots else 0):
        moved = found.correlations()
        size = _best_step(found, moved) * share
        moved.mul_(size).scatter_add_(1, found.at, found.value)
        value, at = moved.topk(found.slots, 1)
        value = torch.where(found.allowed, value, 0).clamp_min(0)
        residual = target - found.written(value, at)
        better = residual.square().sum(1, keepdim=True) < found.residual.square().sum(1, keepdim=True)
        found.value = torch.where(better, value, found.value)
        found.used = found.value > 0
        found.at = torch.where(found.used, torch.where(better, at, found.at), 0)
        found.residual = torch.where(better, residual, found.residual)
        share = torch.where(better, (2 * share).clamp_max(1), share / 2)
    return found


def _best_step(found: Supports, correlation: Float[Tensor, "token feature"]) -> Float[Tensor, "token 1"]:
    first = correlation.topk(found.slots, 1)
    at = torch.where(found.used.any(1, keepdim=True), found.at, first.indices)
    active = torch.where(found.used.any(1, keepdim=True), found.used, found.allowed & (first.values > 0))
    g = torch.where(active, correlation.gather(1, at), 0)
    length = found.written(g, at).square().sum(1, keepdim=True)
    return torch.where(length > 0, g.square().sum(1, keepdim=True) / length, 1)
