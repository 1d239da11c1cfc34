"""How well the suite foretells the text: `-log q(next token)`, in nats a token."""

import torch.nn.functional as F

from scae.core.typing import Float, Tensor
from scae.objectives.comparison import Comparison
from scae.objectives.terms.term import Term


class CrossEntropy(Term):
    name = "ce"

    def __call__(self, comparison: Comparison) -> Float[Tensor, ""]:
        return F.cross_entropy(comparison.logits, comparison.targets, reduction="sum") / comparison.n_scored

    def by_token(self, comparison: Comparison) -> dict[str, Float[Tensor, "batch pos"]]:
        each = F.cross_entropy(comparison.logits, comparison.targets, reduction="none")
        return {self.name: comparison.at_positions(each / comparison.n_scored)}
