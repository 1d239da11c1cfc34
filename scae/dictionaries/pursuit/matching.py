"""Matching pursuit with activations of at least 0 (Mallat and Zhang 1993; Bruckstein et al. 2008).

    j = argmax W_j . r          of all features; f_j += W_j . r,  r -= (W_j . r) W_j          k times

The same feature may be chosen again. Then, `steps` times, of the chosen features the one is moved that takes most of
the error with it, up or down, as far as is best and never below 0.
"""

import torch

from scae.core.typing import Float, Int, Tensor
from scae.dictionaries.pursuit.supports import Supports


def matching(
    target: Float[Tensor, "token d_out"], rows: Float[Tensor, "feature d_out"], k: Int[Tensor, " token"], steps: int
) -> Supports:
    found = Supports(target, rows, k)
    for number in range(found.slots):
        gain, best = found.correlations().max(1)
        gain = torch.where(number < k, gain, 0).clamp_min(0)
        again = found.used & (found.at == best[:, None])
        found.add(best, (gain > 0) & ~again.any(1))
        chosen = found.used & (found.at == best[:, None])
        found.become(found.value + torch.where(chosen, gain[:, None], 0))
    for _ in range(steps if found.slots else 0):
        correlation = found.own_correlations()
        step = torch.maximum(correlation, -found.value)
        best = (step * (2 * correlation - step)).argmax(1, keepdim=True)
        found.become(found.value.scatter_add(1, best, step.gather(1, best)).clamp_min(0))
    return found
