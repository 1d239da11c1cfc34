"""Which pre-activations of a dictionary become activations, and what becomes of them.

    support     the entries that are kept: chosen without gradient, from all pre-activations
    forward     what is made of their values: the pre-activations themselves where nothing else is said, so that their
                gradient is the identity (see `scae.kernels.ops`). Thresholds and gates with parameters learn here: a
                support may hold entries that only carry a gradient, with the activation 0
    penalty     what `loss.sparsity` weighs; None where an activation has no need of one

No activation is below 0, and a feature fires where it is above.
"""

from abc import ABC, abstractmethod

from torch import nn

from scae.core.typing import Bool, Float, Tensor
from scae.kernels import SparseCode


class Activation(nn.Module, ABC):
    """`training` tells whether statistics of a batch may be used and learned."""

    @property
    def by_token(self) -> bool:
        """Whether each token is treated on its own, so that a batch may be taken in parts."""
        return True

    @property
    def picked(self) -> int | None:
        """How many features it picks for every token; None: it is not always the same number."""
        return None

    @abstractmethod
    def support(self, pre: Float[Tensor, "token feature"], live: Bool[Tensor, " token"]) -> SparseCode:
        """The pre-activations that are kept of the tokens where `live`; the others get no entries."""

    def forward(self, code: SparseCode) -> SparseCode:
        """The activations, from the pre-activations that `support` has kept, now with their gradients."""
        return code

    def penalty(self, code: SparseCode) -> Float[Tensor, " nnz"] | None:
        """What a sparsity loss counts of each entry."""
        return None
