"""The k largest positive pre-activations of each token (Gao et al. 2024, section 2.3)."""

import torch

from scae.core.typing import Bool, Float, Tensor
from scae.dictionaries.activation import Rule
from scae.dictionaries.annealing import Picking
from scae.dictionaries.dictionary import Dictionary, Shape
from scae.kernels import SparseCode, largest


class TopK(Picking):
    @property
    def picked(self) -> int:
        return self.k_now

    def support(self, pre: Float[Tensor, "token feature"], live: Bool[Tensor, " token"]) -> SparseCode:
        return largest(pre, self.k_now, live)

    def rule(self) -> Rule:
        return Rule(self.k, torch.zeros(()))

    def follow(self, rule: Rule) -> None:
        if rule.k is None:
            raise ValueError("sae.kind=topk keeps the k largest, the file whatever exceeds a threshold")


def build(shape: Shape, *, k: int) -> Dictionary:
    return Dictionary.linear(shape, TopK(k=k))
