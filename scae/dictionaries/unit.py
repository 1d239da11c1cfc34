"""The unit in which a dictionary sees a stream: `u = (x - centre) / scale`.

The sites of one model, and the models of the world, differ in the size of their activations by orders of magnitude.
Adam's steps, penalties, thresholds and initial values do not: they are tuned for inputs of E||u||^2 = d_model. So every
dictionary measures its own unit before it is trained, computes in it, and stores it; multiplying a model's residual
stream by any power of two changes no number of a suite (invariant I7).
"""

import torch
from torch import nn

from scae.core.typing import Float, Tensor


class Unit(nn.Module):
    """centre: `[d_model]`; scale: `[]`, both of the stream itself. A new unit changes nothing."""

    centre: Float[Tensor, " d_model"]
    scale: Float[Tensor, ""]

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(d_model))
        self.register_buffer("scale", torch.ones(()))

    def enter(self, x: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """From the stream to the unit."""
        return (x - self.centre) / self.scale

    def leave(self, u: Float[Tensor, "*token d_model"]) -> Float[Tensor, "*token d_model"]:
        """From the unit back to the stream."""
        return torch.addcmul(self.centre, u, self.scale)

    @torch.no_grad()
    def measure(
        self, x: Float[Tensor, "token d_model"], *, centred: bool, furthest: float
    ) -> Float[Tensor, " d_model"]:
        """Take the unit from a sample, so that E||u||^2 = d_model over all but its furthest tokens.

        furthest: share of the tokens left out, those furthest from the median. A few tokens of some models are a
        thousand times as long as the rest, and must not decide what counts as 1.
        centred: subtract the mean, too. Returns the mean of what is left in the new unit, 0 where it is centred.
        """
        distance = (x - x.median(0).values).square().sum(1)
        usual = x[distance <= distance.kthvalue(max(1, round(len(x) * (1 - furthest)))).values]
        mean = usual.mean(0)
        self.centre.copy_(mean if centred else torch.zeros_like(mean))
        scale = (usual - self.centre).square().mean().sqrt()
        self.scale.copy_(torch.where(scale > 0, scale, torch.ones_like(scale)))  # a module that writes a constant
        return (mean - self.centre) / self.scale
