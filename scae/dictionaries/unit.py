"""The unit in which a dictionary sees a stream: `u = (x - centre) / size`.

    dataset   size = sqrt(E ||x - centre||^2 / d_model), one number for all tokens: E||u||^2 = d_model
    token     size = ||x - centre|| / sqrt(d_model), of each token its own: ||u||^2 = d_model
    none      size = 1

The sites of one model, and the models of the world, differ in the size of their activations by orders of magnitude.
Adam's steps, penalties, thresholds and initial values do not: they are tuned for inputs of E||u||^2 = d_model. So every
dictionary measures its own unit before it is trained, computes in it, and stores it; multiplying a model's residual
stream by any power of two changes no number of a suite (invariant I7). With `none` it does: a suite then has the unit
of its model, and rates, penalties and thresholds are to be tuned to it.
"""

import math

import torch
from torch import nn

from scae.core.typing import Float, Tensor

Size = Float[Tensor, ""] | Float[Tensor, "token 1"]
"""What counts as 1: one number for all tokens, or one for each."""


class Unit(nn.Module):
    """centre: `[d_model]`; scale: `[]`, both of the stream itself. A new unit changes nothing.

    by_token: each token is taken by its own size. `scale` is then only what counts as 1 where tokens are compared, in a
    loss: u does not depend on it.
    """

    centre: Float[Tensor, " d_model"]
    scale: Float[Tensor, ""]

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(d_model))
        self.register_buffer("scale", torch.ones(()))
        self.by_token = False

    def size(self, x: Float[Tensor, "token _"]) -> Size:
        """What counts as 1: one number, or one for each token of `x`; that of a token at the centre is 1."""
        if not self.by_token:
            return self.scale
        length = torch.linalg.vector_norm(x - self.centre, dim=1, keepdim=True)
        return torch.where(length > 0, length / math.sqrt(x.shape[1]), 1)

    def enter(self, x: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """From the stream to the unit."""
        return (x - self.centre) / self.size(x)

    def leave(self, u: Float[Tensor, "*some d_model"], size: Size | None = None) -> Float[Tensor, "*all d_model"]:
        """From the unit back to the stream; size: that of the tokens. Raises ValueError where it is not told, and each
        token has its own."""
        if size is None:
            size = self.fixed
        return torch.addcmul(self.centre, u, size)

    @property
    def fixed(self) -> Float[Tensor, ""]:
        """The size of every token; raises ValueError where each has its own."""
        if self.by_token:
            raise ValueError("every token has a unit of its own here (sae.normalise=token), none is that of all tokens")
        return self.scale

    @torch.no_grad()
    def measure(
        self, x: Float[Tensor, "token d_model"], *, centred: bool, furthest: float, scaled: bool = True
    ) -> Float[Tensor, " d_model"]:
        """Take the unit from a sample, so that E||u||^2 = d_model over all but its furthest tokens.

        furthest: share of the tokens left out, those furthest from the median. A few tokens of some models are a
        thousand times as long as the rest, and must not decide what counts as 1.
        centred: subtract the mean, too. scaled: False leaves the size at 1. Returns the mean of what is left in the new
        unit; 0 where it is centred and all tokens have one size.
        """
        distance = (x - x.median(0).values).square().sum(1)
        usual = x[distance <= distance.kthvalue(max(1, round(len(x) * (1 - furthest)))).values]
        mean = usual.mean(0)
        self.centre.copy_(mean if centred else torch.zeros_like(mean))
        scale = (usual - self.centre).square().mean().sqrt()
        measured = (scale > 0) & scaled  # 0: a module that writes a constant
        self.scale.copy_(torch.where(measured, scale, torch.ones_like(scale)))
        return self.enter(usual).mean(0) if self.by_token else (mean - self.centre) / self.scale
