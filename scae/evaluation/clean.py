"""The cross-entropy of the language model itself, in nats a token."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F

from scae.lm import LanguageModel, Trace


@torch.no_grad()
def clean_ce(lm: LanguageModel, traces: Iterable[Trace]) -> float:
    """Over the positions where the arms are compared; the traces need no patterns."""
    total, count = 0.0, 0
    for trace in traces:
        logits = lm.paths.logits(trace.at_scored(trace.stream(lm.paths.modules)))
        targets = trace.targets
        total += float(F.cross_entropy(logits, targets, reduction="sum"))
        count += len(targets)
    return total / count
