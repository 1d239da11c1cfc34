"""Predictions beside the model's own, as sums over a corpus in float64."""

from collections.abc import Callable, Collection

import torch.nn.functional as F

from scae.core.typing import Float, Int, Tensor
from scae.lm import LinearPaths, Trace

LOGITS = 1 << 22  # numbers of each of the few tables positions x vocabulary that are held at a time, in float64

Predict = Callable[[slice], Float[Tensor, "scored vocab"]]
"""The logits at some of the scored positions of a batch."""


class Compared:
    """Of one arm, of an ablation, or of the model itself."""

    def __init__(self) -> None:
        self.n_scored = 0
        self._ce = self._kl = self._agree = 0.0

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


def compare(trace: Trace, paths: LinearPaths, model: Compared, others: Collection[tuple[Compared, Predict]]) -> None:
    """Add what the model itself predicts in a batch, which is computed once, and what others do.

    A few positions at a time: five tables of `LOGITS` float64 are held at most (or one position's), however long the
    batch and however many the others are.
    """
    clean, targets = trace.at_scored(trace.stream(paths.modules)), trace.targets
    step = max(1, LOGITS // paths.W_U.shape[1])
    for start in range(0, len(targets), step):
        part = slice(start, start + step)
        p = _log_probabilities(paths.logits(clean[part]))
        model.add(p, p, targets[part])
        for sums, predict in others:
            sums.add(_log_probabilities(predict(part)), p, targets[part])


def _log_probabilities(logits: Float[Tensor, "scored vocab"]) -> Float[Tensor, "scored vocab"]:
    return F.log_softmax(logits.double(), dim=-1)
