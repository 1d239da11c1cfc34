"""Gates and magnitudes (Rajamanoharan et al. 2024, "Improving Dictionary Learning with Gated Sparse Autoencoders").

    gate  = pre                            pre = W u + b, the pre-activations that connections feed
    mag   = exp(r) pre + b_mag             the same encoder rows, each with a scale and a bias of its own
    f     = H(gate) max(mag, 0)            H the step from 0 to 1, which has no gradient

A gate learns from what `max(gate, 0)` costs (the L1 norm, `loss.sparsity`) and from what it reconstructs through the
decoder, which learns nothing from that (`loss.partial`); what is active is not shrunk by the price, because it has
magnitudes of its own. The bias of the encoder is the paper's b_gate; its bias of the magnitudes is b_mag + exp(r) b.
"""

import torch
from torch import nn

from scae.core.typing import Bool, Float, Tensor
from scae.dictionaries.activation import Activation
from scae.dictionaries.dictionary import Dictionary, Shape
from scae.kernels import SparseCode


class Gated(Activation):
    """r_mag, b_mag: `[feature]`, 0 at first: magnitudes are what the gates are."""

    teaches_decoder = False

    def __init__(self, *, n_features: int, price: float) -> None:
        super().__init__()
        self.price = price
        self.r_mag = nn.Parameter(torch.zeros(n_features))
        self.b_mag = nn.Parameter(torch.zeros(n_features))

    @torch.no_grad()
    def support(self, pre: Float[Tensor, "token feature"], live: Bool[Tensor, " token"]) -> SparseCode:
        """What an open gate lets through, also where its magnitude is 0: from these, too, a gate learns."""
        return SparseCode.where((pre > 0) & live[:, None], pre)

    def forward(self, code: SparseCode) -> SparseCode:
        magnitude = self.r_mag.exp()[code.col] * code.value + self.b_mag[code.col]
        return code.with_values(magnitude.clamp_min(0))

    def penalty(self, code: SparseCode, pre: SparseCode) -> Float[Tensor, " nnz"]:
        """Their sum is the L1 norm of the gates, times the price."""
        return self.price * pre.value

    def partial(self, code: SparseCode, pre: SparseCode) -> list[SparseCode]:
        """The gates in place of the activations."""
        return [pre]


def build(shape: Shape, *, price: float) -> Dictionary:
    return Dictionary.linear(shape, Gated(n_features=shape.n_features, price=price))
