"""How far the predictions are from the model's: `T^2 KL(p_T || q_T)`, model and suite, in nats a token.

The square of the temperature keeps the size of the gradient (Hinton et al. 2015).
"""

import torch.nn.functional as F

from scae.core.typing import Float, Tensor
from scae.objectives.comparison import Comparison
from scae.objectives.terms.term import Term


class LogitKl(Term):
    name = "logit_kl"

    def __init__(self, *, weight: float, temperature: float) -> None:
        super().__init__(weight=weight)
        self.temperature = temperature

    def __call__(self, comparison: Comparison) -> Float[Tensor, ""]:
        q, p = self._log_probabilities(comparison)
        return F.kl_div(q, p, reduction="sum", log_target=True) / comparison.n_scored * self.temperature**2

    def by_token(self, comparison: Comparison) -> dict[str, Float[Tensor, "batch pos"]]:
        q, p = self._log_probabilities(comparison)
        each = F.kl_div(q, p, reduction="none", log_target=True).sum(-1) * self.temperature**2
        return {self.name: comparison.at_positions(each / comparison.n_scored)}

    def _log_probabilities(self, comparison: Comparison) -> tuple[Float[Tensor, "scored vocab"], ...]:
        """Of the suite, of the model."""
        p = F.log_softmax(comparison.clean_logits / self.temperature, dim=-1)
        q = F.log_softmax(comparison.logits / self.temperature, dim=-1)
        return q, p
