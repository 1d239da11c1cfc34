"""Whatever is positive is active; an L1 penalty on the activations decides how much that is."""

import torch

from scae.core.typing import Bool, Float, Tensor
from scae.dictionaries.activation import Activation, Rule
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

    def rule(self) -> Rule:
        return Rule(None, torch.zeros(()))

    def follow(self, rule: Rule) -> None:
        if rule.k is not None or rule.threshold.any():
            raise ValueError("sae.kind=vanilla keeps whatever is positive, the file does not")


def build(shape: Shape) -> Dictionary:
    return Dictionary.linear(shape, ReLU())
