"""Predictions beside the model's own, as sums over a corpus in float64."""

from collections.abc import Iterator

import torch.nn.functional as F

from scae.core.typing import Float, Int, Tensor

LOGITS = 1 << 22  # numbers of each of the few tables positions x vocabulary that are held at a time, in float64


class Compared:
    """Of one arm, of an ablation, or of the model itself."""

    def __init__(self) -> None:
        self.n_scored = 0
        self._ce = self._kl = self._agree = 0.0

    @staticmethod
    def parts(n_scored: int, vocab: int) -> Iterator[slice]:
        """A few positions at a time."""
        step = max(1, LOGITS // vocab)
        for start in range(0, n_scored, step):
            yield slice(start, start + step)

    def add(
        self,
        q: Float[Tensor, "scored vocab"],
        p: Float[Tensor, "scored vocab"],
        targets: Int[Tensor, " scored"],
    ) -> None:
        """Log-probabilities of the arm and of the model at some positions, and the tokens that followed."""
        self.n_scored += len(targets)
        self._ce -= float(q.gather(1, targets[:, None]).sum())
        self._kl += float((p.exp() * (p - q)).sum())
        self._agree += int((q.argmax(-1) == p.argmax(-1)).sum())

    @property
    def ce(self) -> float:
        return self._ce / self.n_scored

    @property
    def kl(self) -> float:
        return self._kl / self.n_scored

    @property
    def top1(self) -> float:
        return self._agree / self.n_scored


def log_probabilities(logits: Float[Tensor, "scored vocab"]) -> Float[Tensor, "scored vocab"]:
    return F.log_softmax(logits.double(), dim=-1)
