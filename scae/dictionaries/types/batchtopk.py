"""The k largest positive pre-activations a token, on average over a batch (Bussmann et al. 2024)."""

from collections.abc import Callable

import torch

from scae.core.processes import summed
from scae.core.typing import Bool, Float, Tensor
from scae.dictionaries.activation import Rule
from scae.dictionaries.annealing import Picking
from scae.dictionaries.dictionary import Dictionary, Shape
from scae.kernels import SparseCode


class BatchTopK(Picking):
    """In training the cut is the batch's own: that of all processes together, of one micro-step where gradients are
    accumulated. Its running mean is the threshold used at inference, so that the code of a token does not depend on the
    tokens beside it. The first batch sets the mean, so short runs are not biased to 0.

    alone: this process has a batch of its own and shares none; then it waits for no other.
    """

    threshold: Tensor
    alone = False

    def __init__(self, *, k: int, threshold_rate: float) -> None:
        super().__init__(k=k)
        self.threshold_rate = threshold_rate
        self.register_buffer("threshold", torch.tensor(-1.0, dtype=torch.float64))  # < 0: no batch seen

    @property
    def by_token(self) -> bool:
        return not self.training

    @torch.no_grad()
    def support(self, pre: Float[Tensor, "token feature"], live: Bool[Tensor, " token"]) -> SparseCode:
        cut = self._learn(pre, live) if self.training else self.threshold.clamp(min=0)
        return SparseCode.where((pre > cut) & live[:, None], pre)

    def rule(self) -> Rule:
        return Rule(None, self.threshold.clamp(min=0))

    def follow(self, rule: Rule) -> None:
        if rule.k is not None:
            raise ValueError("sae.kind=batchtopk keeps whatever exceeds a threshold, the file the k largest of a token")
        self.threshold.copy_(rule.single_threshold)

    def forget(self) -> None:
        """The next batch in training sets the threshold as the first one did."""
        self.threshold.fill_(-1.0)

    def _learn(self, pre: Tensor, live: Tensor) -> Tensor:
        """The batch's own cut: a value just below its (k x live tokens)-th largest positive pre-activation."""
        total = _own if self.alone else summed
        positive = pre[live]
        positive = positive[positive > 0]
        counts = torch.tensor([len(positive), int(live.sum())], device=pre.device)
        n_positive, n_live = total(counts).tolist()
        cut, wanted = positive.new_zeros(()), self.k_now * n_live
        if n_positive > wanted:
            cut = torch.nextafter(kth_largest(positive, wanted, total), cut)
        if n_positive:
            smallest = cut.double()
            first = self.threshold < 0
            self.threshold += torch.where(
                first, smallest - self.threshold, self.threshold_rate * (smallest - self.threshold)
            )
        return cut


def build(shape: Shape, *, k: int, threshold_rate: float) -> Dictionary:
    return Dictionary.linear(shape, BatchTopK(k=k, threshold_rate=threshold_rate))


def kth_largest(positive: Float[Tensor, " entry"], k: int, total: Callable[[Tensor], Tensor]) -> Float[Tensor, ""]:
    """The k-th largest of the numbers > 0 of all processes, of which there are at least k: exactly, on every process.

    total: sums counts over the processes. The bits of positive floats are ordered as the floats are, so the answer is
    found a byte at a time, from the top: 256 counts are exchanged a byte, and no number.
    """
    bits = positive.view(torch.int32 if positive.element_size() == 4 else torch.int64)
    found, left = bits.new_zeros(()), bits.new_tensor(k, dtype=torch.int64)
    for shift in range(8 * positive.element_size() - 8, -1, -8):
        byte = (bits >> shift) & 255
        counts = total(torch.bincount(byte, minlength=256))
        at_least = counts.flip(0).cumsum(0).flip(0)  # by byte: how many have it or a larger one
        here = (at_least >= left).sum() - 1
        left = left - (at_least - counts)[here]
        bits = bits[byte == here]
        found = found << 8 | here
    return found.to(bits.dtype).view(positive.dtype)


def _own(value: Tensor) -> Tensor:
    return value
