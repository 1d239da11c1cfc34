"""The next-token distribution that looks at nothing: what every language model must beat."""

import logging
from collections.abc import Callable, Iterable

import torch

from scae.data import TokenWindows
from scae.evaluation.clean import clean_ce
from scae.lm import LanguageModel, Trace
from scae.typing import Float, Tensor

log = logging.getLogger(__name__)


def unigram(train: TokenWindows, vocab: int) -> Float[Tensor, " vocab"]:
    """Log-probabilities of the tokens of the training text, each counted once more than it occurs."""
    counts = torch.bincount(train.tokens[train.live()].long(), minlength=vocab).double() + 1
    return (counts / counts.sum()).log()


def unigram_ce(log_probabilities: Float[Tensor, " vocab"], traces: Iterable[Trace]) -> float:
    """Its cross-entropy in nats a token, on the positions where the arms are compared."""
    total, count = 0.0, 0
    for trace in traces:
        targets = trace.targets.cpu()
        total -= float(log_probabilities[targets].sum())
        count += len(targets)
    return total / count


def warn_if_no_better(lm: LanguageModel, train: TokenWindows, traces: Callable[[], Iterable[Trace]]) -> None:
    """Say so where a model does not know the text that it is given: nothing trained on it would mean much.

    `traces()` runs over a sample of the training text; it is called twice.
    """
    model = clean_ce(lm, traces())
    alone = unigram_ce(unigram(train, lm.paths.W_U.shape[1]), traces())
    if model >= alone:
        log.warning(
            "the model predicts the training text no better than the frequencies of its tokens do: CE %.3f, theirs "
            "%.3f; is this the text, and the tokenizer, that it was made for?",
            model,
            alone,
        )
