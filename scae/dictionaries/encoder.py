"""From what a dictionary reads to pre-activations.

    pre = W u + b          row i of W is the direction that feature i looks for

A connection needs such a row: the virtual weight is its product with a decoder row upstream. What arrives along
connections is added to the pre-activations.
"""

from collections.abc import Iterable

import torch
from torch import nn

from scae.core.typing import Float, Tensor
from scae.kernels import Arrivals, SparseCode, arrive, encode_at


class Encoder(nn.Module):
    """W: `[feature, d_in]` encoder rows; b: `[feature]`."""

    def __init__(self, rows: Float[Tensor, "feature d_in"]) -> None:
        super().__init__()
        self.W = nn.Parameter(rows.clone())
        self.b = nn.Parameter(torch.zeros(len(rows)))

    @property
    def n_features(self) -> int:
        return len(self.b)

    @property
    def rows(self) -> Float[Tensor, "feature d_in"]:
        """Row i is the direction that feature i looks for. An encoder that has no such rows raises ValueError."""
        return self.W

    @torch.no_grad()
    def rescale(self, factor: Float[Tensor, ""]) -> None:
        """Multiply what pre-activations owe to `u`."""
        self.W.mul_(factor)

    @torch.no_grad()
    def begin_as(self, other: "Encoder") -> None:
        """Become the same function as this linear encoder."""
        self.W.copy_(other.W)
        self.b.copy_(other.b)

    def deep(self) -> Iterable[tuple[nn.Parameter, float]]:
        """Parameters that want another rate than rows and biases, and what it is multiplied by."""
        return ()

    @torch.no_grad()
    def preactivations(
        self, u: Float[Tensor, "token d_in"], arrivals: Arrivals | None = None
    ) -> Float[Tensor, "token feature"]:
        """All of them, without gradient: those of the few that are kept come from `differentiable`."""
        if arrivals is None:
            return torch.addmm(self.b, u, self.W.T)
        return arrive(arrivals).add_(self.b).addmm_(u, self.W.T)

    def differentiable(
        self,
        code: SparseCode,
        u: Float[Tensor, "token d_in"],
        arrivals: Arrivals | None = None,
        *,
        subtracted: Float[Tensor, " d_in"] | None = None,
    ) -> SparseCode:
        """The same code, its values functions of `u`, of the parameters, and of what arrived along connections.

        subtracted: what `u` is less than what was read, without gradient there. It acts as a bias of -W subtracted: so
        its gradient is one product over all tokens, and what was read gets none where it needs none.
        """
        bias: Tensor = self.b
        if subtracted is not None:
            bias = torch.addmv(bias, self.W.detach(), subtracted, alpha=-1)
        return code.with_values(encode_at(code, u, self.W, bias, arrivals))
