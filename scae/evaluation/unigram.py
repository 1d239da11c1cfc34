"""The next-token distribution that looks at nothing: what every language model must beat."""

from collections.abc import Iterable

import torch

from scae.data import TokenWindows
from scae.lm import Trace
from scae.typing import Float, Tensor


def unigram(train: TokenWindows, vocab: int) -> Float[Tensor, " vocab"]:
    """Log-probabilities of the tokens of the training text, each counted once more than it occurs."""
    counts = torch.bincount(train.tokens[train.live()].long(), minlength=vocab).double() + 1
    return (counts / counts.sum()).log()


def unigram_ce(log_probabilities: Float[Tensor, " vocab"], traces: Iterable[Trace]) -> float:
    """Its cross-entropy in nats a token, on the positions where the arms are compared."""
    total, count = 0.0, 0
    for trace in traces:
        targets = trace.tokens[:, 1:][trace.scored].cpu()
        total -= float(log_probabilities[targets].sum())
        count += len(targets)
    return total / count
