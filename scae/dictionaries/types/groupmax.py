"""One feature of each group: the features in k runs of one size, of each of which the largest is active, if positive.

GroupMax of EleutherAI's sparsify. It costs a maximum: no feature is compared with one of another group.
"""

import torch

from scae.core.typing import Bool, Float, Tensor
from scae.dictionaries.activation import Activation
from scae.dictionaries.dictionary import Dictionary, Shape
from scae.kernels import SparseCode


class GroupMax(Activation):
    def __init__(self, *, k: int) -> None:
        super().__init__()
        self.k = k

    @torch.no_grad()
    def support(self, pre: Float[Tensor, "token feature"], live: Bool[Tensor, " token"]) -> SparseCode:
        best = pre.unflatten(1, (self.k, -1)).max(2)
        first = torch.arange(0, pre.shape[1], pre.shape[1] // self.k, device=pre.device)
        return SparseCode.from_rows((best.values > 0) & live[:, None], best.indices + first, best.values, pre.shape[1])


def build(shape: Shape, *, k: int) -> Dictionary:
    if shape.n_features % k:
        raise ValueError(f"k={k} groups of one size cannot be made of {shape.n_features} features")
    return Dictionary.linear(shape, GroupMax(k=k))
