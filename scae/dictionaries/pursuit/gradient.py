"""Gradient pursuit (Blumensath and Davies 2008, section III.A) with activations of at least 0.

    j = argmax W_j . r                        of the features that are not chosen yet, as long as there are fewer than k
    g = W_i . r at the chosen features i      0 where f_i is 0 and would fall
    f = f + a g,  r = r - a g W               a = min(||g||^2 / ||g W||^2, the first at which some f_i is 0)

One such step for each feature that is chosen, then `steps` more. Each goes as far along g as is best, or to where the
first activation comes to 0, which then leaves: so the error never grows, as it can where activations are clipped at 0.
Many steps come to the best activations of the chosen features, for which orthogonal matching pursuit solves each time.
"""

import torch

from scae.core.typing import Bool, Float, Int, Tensor
from scae.dictionaries.pursuit.supports import Supports


def gradient(
    target: Float[Tensor, "token d_out"], rows: Float[Tensor, "feature d_out"], k: Int[Tensor, " token"], steps: int
) -> Supports:
    found = Supports(target, rows, k)
    for number in range(found.slots):
        _descend(found, _choose(found, (number < k)[:, None]))
    descend(found, steps)
    return found


def descend(found: Supports, steps: int) -> None:
    """Better activations of the features that are chosen."""
    for _ in range(steps if found.slots else 0):
        _descend(found, found.own_correlations())


def _choose(found: Supports, wanted: Bool[Tensor, "token 1"]) -> Float[Tensor, "token slot"]:
    """Add a feature to each token that has room; returns the correlations of all that are chosen then. Both where it is
    wanted: a token takes its own k steps, whatever is beside it.
    """
    correlation, before = found.correlations(), found.used
    held = correlation.gather(1, found.at)
    barred = torch.full_like(held, torch.inf).masked_fill(before, -torch.inf)
    gain, best = correlation.scatter_reduce_(1, found.at, barred, "amin").max(1)
    found.add(best, wanted[:, 0] & (gain > 0))
    return torch.where(wanted, torch.where(before, held, torch.where(found.used, gain[:, None], 0)), 0)


def _descend(found: Supports, correlation: Float[Tensor, "token slot"]) -> None:
    """One step along the gradient, none below 0."""
    g = torch.where(found.used & ((found.value > 0) | (correlation > 0)), correlation, 0)
    length = found.written(g).square().sum(1, keepdim=True)
    best = torch.where(length > 0, g.square().sum(1, keepdim=True) / length, 0)
    at_0 = torch.where(g < 0, -found.value / g, torch.inf)
    step = torch.minimum(best, at_0.amin(1, keepdim=True))
    found.become(torch.where(at_0 <= step, 0, (found.value + step * g).clamp_min(0)))
