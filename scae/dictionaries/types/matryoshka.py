"""Nested dictionaries on BatchTopK (Bussmann et al. 2025, "Learning Multi-Level Features with Matryoshka SAEs").

    loss = sum over m of ||x - (f_1..n_m W_1..n_m + b)||^2,    n_1 < n_2 < ... < n_M, the last of them all features

The n_m are the sums of the first sizes of `groups`. The first features cannot leave to later ones what is general, so
they do not split into ever more special ones as a dictionary grows. The code is picked once, among all features; the
term m = M is the reconstruction itself (`loss.recon`), the others are `loss.partial`.
"""

from collections.abc import Sequence
from itertools import accumulate

from scae.dictionaries.dictionary import Dictionary, Shape
from scae.dictionaries.types.batchtopk import BatchTopK
from scae.kernels import SparseCode


class Matryoshka(BatchTopK):
    """prefixes: the numbers of features n_1 to n_(M-1)."""

    def __init__(self, *, k: int, threshold_rate: float, prefixes: Sequence[int]) -> None:
        super().__init__(k=k, threshold_rate=threshold_rate)
        self.prefixes = tuple(prefixes)

    def partial(self, code: SparseCode, pre: SparseCode) -> list[SparseCode]:
        return [code.entries(code.col < n_features) for n_features in self.prefixes]


def build(shape: Shape, *, k: int, threshold_rate: float, groups: Sequence[float]) -> Dictionary:
    """groups: shares of the features, together 1."""
    prefixes = [round(share * shape.n_features) for share in accumulate(groups[:-1])]
    return Dictionary.linear(shape, Matryoshka(k=k, threshold_rate=threshold_rate, prefixes=prefixes))
