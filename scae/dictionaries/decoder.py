"""From activations to what a dictionary writes.

v = f W + b            row j of W is the direction that feature j writes
"""

from collections.abc import Iterable

import torch
from torch import nn

from scae.core.typing import Float, Tensor
from scae.kernels import SparseCode, decode
from scae.lm import Module


class Decoder(nn.Module):
    """W: `[feature, d_out]` decoder rows; b: `[d_out]`, what is written when no feature fires."""

    def __init__(self, rows: Float[Tensor, "feature d_out"]) -> None:
        super().__init__()
        self.W = nn.Parameter(rows)
        self.b = nn.Parameter(torch.zeros(rows.shape[1]))

    def forward(self, code: SparseCode) -> Float[Tensor, "token d_out"]:
        return self.without_bias(code) + self.b

    def without_bias(self, code: SparseCode) -> Float[Tensor, "token d_out"]:
        return decode(code, self.W)

    def frozen(self, code: SparseCode) -> Float[Tensor, "token d_out"]:
        """The same as `forward`; the decoder learns nothing from it."""
        return decode(code, self.W.detach()) + self.b.detach()

    def rows(self, reader: Module) -> Float[Tensor, "feature d_out"]:
        """What each feature has added to the stream that `reader` reads, when its activation is 1: one row, whoever
        reads it. A decoder that writes at several modules answers with the sum of what stands before `reader`."""
        return self.W

    def beyond(self, code: SparseCode) -> Iterable[tuple[int, Float[Tensor, "token d_out"]]]:
        """What is written at the MLPs of later layers, by layer; most decoders write at one module."""
        return ()

    @torch.no_grad()
    def project_gradient(self) -> None:
        """Remove from the gradient what would change the norm of the rows."""
        if self.W.grad is not None:
            rows = torch.nn.functional.normalize(self.W, dim=1)
            self.W.grad -= (self.W.grad * rows).sum(1, keepdim=True) * rows

    @torch.no_grad()
    def normalise(self) -> None:
        """Scale every row to norm 1, unless rows do not learn."""
        if self.W.requires_grad:
            self.divide(self.norms().clamp_min(1e-12))

    def norms(self) -> Float[Tensor, " feature"]:
        """Of the rows."""
        return self.W.norm(dim=1)

    @torch.no_grad()
    def divide(self, by: Float[Tensor, " feature"]) -> None:
        """Divide every row by a number."""
        self.W.div_(by[:, None])
