"""Which pre-activations of a dictionary become activations.

An activation function only chooses the support, the entries that are kept; the kept values are the pre-activations
themselves, and their gradient is the identity (see `scae.kernels.ops`). Kept entries are always > 0.
"""

from abc import ABC, abstractmethod

import torch
from torch import nn

from scae.kernels import SparseCode, largest
from scae.typing import Bool, Float, Tensor


class Activation(nn.Module, ABC):
    """Chooses the support of a code; `training` tells whether batch statistics may be used and learned."""

    @property
    def by_token(self) -> bool:
        """Whether each token is treated on its own, so that a batch may be taken in parts."""
        return True

    @abstractmethod
    def forward(self, pre: Float[Tensor, "token feature"], live: Bool[Tensor, " token"]) -> SparseCode:
        """The code of the tokens where `live`; the others get no entries. Carries no gradient."""


class ReLU(Activation):
    """`max(pre, 0)`."""

    @torch.no_grad()
    def forward(self, pre: Float[Tensor, "token feature"], live: Bool[Tensor, " token"]) -> SparseCode:
        return SparseCode.where((pre > 0) & live[:, None], pre)


class TopK(Activation):
    """The k largest positive pre-activations of each token (Gao et al. 2024, section 2.3)."""

    def __init__(self, *, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, pre: Float[Tensor, "token feature"], live: Bool[Tensor, " token"]) -> SparseCode:
        return largest(pre, self.k, live)


class BatchTopK(Activation):
    """The k largest positive pre-activations a token, on average over a batch (Bussmann et al. 2024).

    In training the cut is the batch's own. Its running mean is the threshold used at inference, so that the code of a
    token does not depend on the tokens beside it. The first batch sets the mean, so short runs are not biased to 0.
    """

    threshold: Tensor

    def __init__(self, *, k: int, threshold_rate: float) -> None:
        super().__init__()
        self.k = k
        self.threshold_rate = threshold_rate
        self.register_buffer("threshold", torch.tensor(-1.0, dtype=torch.float64))  # < 0: no batch seen

    @property
    def by_token(self) -> bool:
        return not self.training

    @torch.no_grad()
    def forward(self, pre: Float[Tensor, "token feature"], live: Bool[Tensor, " token"]) -> SparseCode:
        cut = self._learn(pre, live) if self.training else self.threshold.clamp(min=0)
        return SparseCode.where((pre > cut) & live[:, None], pre)

    def _learn(self, pre: Tensor, live: Tensor) -> Tensor:
        """The batch's own cut: a value just below its (k x live tokens)-th largest positive pre-activation."""
        positive = pre[live]
        positive = positive[positive > 0]
        keep = self.k * int(live.sum())
        if len(positive) <= keep:
            cut = positive.new_zeros(())
        else:
            kept = positive.topk(keep, sorted=False).values.min() if keep else positive.max()
            cut = torch.nextafter(kept, kept.new_zeros(())) if keep else kept
        if len(positive):
            smallest = cut.double()
            first = self.threshold < 0
            self.threshold += torch.where(
                first, smallest - self.threshold, self.threshold_rate * (smallest - self.threshold)
            )
        return cut
