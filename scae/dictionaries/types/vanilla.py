"""Whatever is positive is active; an L1 penalty on the activations decides how much that is."""

import torch

from scae.core.typing import Bool, Float, Tensor
from scae.dictionaries.activation import Activation
from scae.dictionaries.dictionary import Dictionary, Shape
from scae.kernels import SparseCode


class ReLU(Activation):
    """`max(pre, 0)`."""

    @torch.no_grad()
    def support(self, pre: Float[Tensor, "token feature"], live: Bool[Tensor, " token"]) -> SparseCode:
        return SparseCode.where((pre > 0) & live[:, None], pre)

    def penalty(self, code: SparseCode, pre: SparseCode) -> Float[Tensor, " nnz"]:
        """Their sum is the L1 norm."""
        return code.value


def build(shape: Shape) -> Dictionary:
    return Dictionary.linear(shape, ReLU())
