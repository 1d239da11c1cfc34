"""The k largest positive pre-activations of each token (Gao et al. 2024, section 2.3)."""

from scae.core.typing import Bool, Float, Tensor
from scae.dictionaries.activation import Activation
from scae.dictionaries.dictionary import Dictionary, Shape
from scae.kernels import SparseCode, largest


class TopK(Activation):
    def __init__(self, *, k: int) -> None:
        super().__init__()
        self.k = k

    @property
    def picked(self) -> int:
        return self.k

    def support(self, pre: Float[Tensor, "token feature"], live: Bool[Tensor, " token"]) -> SparseCode:
        return largest(pre, self.k, live)


def build(shape: Shape, *, k: int) -> Dictionary:
    return Dictionary.linear(shape, TopK(k=k))
