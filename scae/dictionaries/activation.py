"""Which pre-activations of a dictionary become activations, and what becomes of them.

    support     the entries that are kept: chosen without gradient, from all pre-activations
    forward     what is made of their values: the pre-activations themselves where nothing else is said, so that their
                gradient is the identity (see `scae.kernels.ops`). Thresholds and gates with parameters learn here: a
                support may hold entries that only carry a gradient, with the activation 0
    penalty     what `loss.sparsity` weighs; None where an activation has no need of one
    partial     other codes that the target has to be reconstructed with, too (`loss.partial`)
    rule        what all of this is at inference, in the words that files of other libraries have for it

No activation is below 0, and a feature fires where it is above.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from scae.core.typing import Bool, Float, Tensor
from scae.kernels import SparseCode


@dataclass(frozen=True)
class Rule:
    """A pre-activation stays what it is where it is positive, above `threshold` and among the `k` largest of its token;
    elsewhere it becomes 0.

    k: None: however many; threshold: `[feature]`, or one for all of them.
    """

    k: int | None
    threshold: Float[Tensor, "*feature"]

    def scaled(self, factor: Float[Tensor, " feature"]) -> "Rule":
        """What chooses the same features when each pre-activation is multiplied by its factor > 0; raises ValueError
        where none does."""
        if self.k is not None and not _nearly_equal(factor):
            low, high = factor.min(), factor.max()
            raise ValueError(f"the {self.k} largest would be others: the factors differ, from {low:.4g} to {high:.4g}")
        return Rule(self.k, self.threshold * factor)

    @property
    def single_threshold(self) -> Float[Tensor, ""]:
        """The threshold of all features; raises ValueError where they differ in it."""
        if not _nearly_equal(self.threshold):
            low, high = self.threshold.min(), self.threshold.max()
            raise ValueError(
                f"features have thresholds of their own, from {low:.4g} to {high:.4g}; needed: one for all"
            )
        return self.threshold.mean()


def _nearly_equal(values: Tensor) -> bool:
    return bool((values.max() - values.min()).abs() <= 1e-4 * values.abs().max())


class Activation(nn.Module, ABC):
    """`training` tells whether statistics of a batch may be used and learned.

    teaches_decoder: whether the decoder learns from `partial`, too.
    """

    teaches_decoder: ClassVar[bool] = True

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

    def penalty(self, code: SparseCode, pre: SparseCode) -> Float[Tensor, " nnz"] | None:
        """What a sparsity loss counts of each entry. pre: the pre-activations that the activations were made from."""
        return None

    def partial(self, code: SparseCode, pre: SparseCode) -> list[SparseCode]:
        """Codes beside `code`, which the same decoder has to make the same target from."""
        return []

    def rule(self) -> Rule:
        """What it does at inference; raises ValueError where it is none of the rules."""
        raise ValueError(f"{type(self).__name__} is more than a choice among pre-activations: no other format has it")

    def follow(self, rule: Rule) -> None:
        """Do this at inference; raises ValueError where it cannot. `k` is a setting, not a state: any will do."""
        raise ValueError(f"{type(self).__name__} cannot be started from a file of another format")
