"""Thresholds by pass.

A threshold of BatchTopK lets k activations a token through, on average, in the pass that it was learned in. In another
pass a dictionary reads something else: the same threshold lets through a fraction of k, or a multiple. So a suite knows
whose its thresholds are (`Suite.threshold_pass`); training in another pass starts them anew, and before a suite is
compared in another pass they are learned there (`learn`). Other dictionaries have no thresholds.
"""

from collections.abc import Iterable

import torch

from scae.dictionaries import BatchTopK
from scae.lm import Trace
from scae.suite.assembly import Mode
from scae.suite.suite import Suite


def foreign(suite: Suite, mode: Mode) -> list[BatchTopK]:
    """What has a threshold that belongs to another pass than `mode`, or to none."""
    if suite.threshold_pass == mode:
        return []
    activations = (suite[site].activation for site in suite.sites)
    return [activation for activation in activations if isinstance(activation, BatchTopK)]


def begin(suite: Suite, mode: Mode) -> None:
    """Training in `mode` begins: its first batch sets the thresholds that belong to another pass."""
    for activation in foreign(suite, mode):
        activation.forget()
    suite.threshold_pass = mode


@torch.no_grad()
def learn(suite: Suite, traces: Iterable[Trace], mode: Mode) -> None:
    """Set every threshold that belongs to another pass to the mean cut of these batches in `mode`.

    Sites learn together: in each batch what is upstream already has k activations a token. Only this process' batches
    count. Nothing else of the suite changes.
    """
    learning = foreign(suite, mode)
    if not learning:
        return
    suite.eval()
    total, n_live = [torch.zeros_like(activation.threshold) for activation in learning], 0
    for activation in learning:
        activation.alone = True
        activation.train()
    for trace in traces:
        for activation in learning:
            activation.forget()
        suite(trace, mode=mode)
        n_live += trace.n_live
        for number, activation in enumerate(learning):
            total[number] += trace.n_live * activation.threshold.clamp(min=0)
    for activation, one in zip(learning, total, strict=True):
        activation.threshold.copy_(one / n_live)
        activation.alone = False
        activation.eval()
    suite.threshold_pass = mode
