"""The decoder of a crosslayer transcoder: a feature writes to its own MLP and to later ones (Ameisen et al. 2025).

v_m = f W_m + b [m its own layer]     row j of W_m is the direction that feature j writes at the MLP of layer m

What stands in for the MLP of layer m is the sum over the dictionaries of layers up to m; a bias belongs to the
dictionary of its layer alone. Every W_m is in the unit of what is written at m.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from scae.core.typing import Float, Tensor
from scae.dictionaries.decoder import Decoder
from scae.kernels import SparseCode, decode
from scae.lm import Module


class CrosslayerDecoder(Decoder):
    """W: `[feature, d_out]` rows at its own MLP; further: `[layer, feature, d_out]` rows at the later ones, 0 at first;
    sizes: `[layer]` the units of what is written there, over that of its own; layers: which these are.

    The norm of a feature's row is that of all that it writes.
    """

    sizes: Float[Tensor, " layer"]

    def __init__(self, rows: Float[Tensor, "feature d_out"], layers: Sequence[int]) -> None:
        super().__init__(rows)
        self.layers = tuple(layers)
        self.further = nn.Parameter(rows.new_zeros(len(layers), *rows.shape))
        self.register_buffer("sizes", torch.ones(len(layers)))

    def rows(self, reader: Module) -> Float[Tensor, "feature d_out"]:
        """An MLP stands before `reader` where its layer does: none reads what is written at its own."""
        n_before = sum(layer < reader.layer for layer in self.layers)
        if not n_before:
            return self.W
        return self.W + torch.einsum("m,mfd->fd", self.sizes[:n_before], self.further[:n_before])

    def beyond(self, code: SparseCode) -> Iterator[tuple[int, Float[Tensor, "token d_out"]]]:
        """What is written at each of the later MLPs, by layer, in the unit of its own."""
        for layer, rows, size in zip(self.layers, self.further, self.sizes, strict=True):
            yield layer, decode(code, rows) * size

    @torch.no_grad()
    def project_gradient(self) -> None:
        if self.W.grad is None or self.further.grad is None:
            return
        norm = self.norms().clamp_min(1e-12).square()
        along = (self.W.grad * self.W).sum(1) + (self.further.grad * self.further).sum((0, 2))
        share = (along / norm)[:, None]
        self.W.grad -= share * self.W
        self.further.grad -= share * self.further

    def norms(self) -> Float[Tensor, " feature"]:
        return (self.W.square().sum(1) + self.further.square().sum((0, 2))).sqrt()

    @torch.no_grad()
    def divide(self, by: Float[Tensor, " feature"]) -> None:
        super().divide(by)
        self.further.div_(by[:, None])
