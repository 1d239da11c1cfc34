"""The next-token distribution that looks at nothing: what every language model must beat."""

import logging
from collections.abc import Callable, Iterable

import torch

from scae.core.typing import Float, Tensor
from scae.data import TokenWindows
from scae.evaluation.clean import clean_ce
from scae.evaluation.walk import Metrics, Observer, walk
from scae.lm import LanguageModel, Trace

log = logging.getLogger(__name__)


def unigram(train: TokenWindows, vocab: int) -> Float[Tensor, " vocab"]:
    """Log-probabilities of the tokens of the training text, each counted once more than it occurs."""
    counts = torch.bincount(train.tokens[train.live()].long(), minlength=vocab).double() + 1
    return (counts / counts.sum()).log()


class Unigram(Observer):
    """`lm/ce_unigram`: its cross-entropy in nats a token, on the positions where the arms are compared."""

    def __init__(self, log_probabilities: Float[Tensor, " vocab"]) -> None:
        self._log_probabilities = log_probabilities
        self._total, self._count = 0.0, 0

    def batch(self, trace: Trace) -> None:
        targets = trace.targets.cpu()
        self._total -= float(self._log_probabilities[targets].sum())
        self._count += len(targets)

    def result(self) -> Metrics:
        return {"lm/ce_unigram": self._total / self._count}


def warn_if_no_better(lm: LanguageModel, train: TokenWindows, traces: Callable[[], Iterable[Trace]]) -> None:
    """Say so where a model does not know the text that it is given: nothing trained on it would mean much.

    `traces()` runs over a sample of the training text; it is called twice.
    """
    model = clean_ce(lm, traces())
    (alone,) = walk(lm, [], traces(), [Unigram(unigram(train, lm.paths.W_U.shape[1]))]).values()
    if model >= alone:
        log.warning(
            "the model predicts the training text no better than the frequencies of its tokens do: CE %.3f, theirs "
            "%.3f; is this the text, and the tokenizer, that it was made for?",
            model,
            alone,
        )
