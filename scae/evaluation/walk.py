"""One walk over a text, on which everything that is to be measured looks at the same batches.

    observers begin ─► for every batch: every arm runs, and each output is shown; the batch ends ─► their results

An output is shown and let go before the next arm runs: an observer that needs it longer keeps what it needs of it, and
no longer than to the end of the batch, so that memory does not grow with the text or with the number of arms.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from scae.evaluation.arms import Arm
from scae.lm import LanguageModel, Trace
from scae.sites import Site
from scae.suite import SuiteOutput

Metrics = dict[str, float]


@dataclass(frozen=True)
class Subject:
    """What is known before the first batch."""

    lm: LanguageModel
    arms: tuple[Arm, ...]

    @property
    def sites(self) -> list[Site]:
        """Every site that has a dictionary in some arm, in order."""
        return list(dict.fromkeys(site for arm in self.arms for site in arm.suite.sites))


class Observer:
    """Looks at a walk and says in the end what it has found. Every method but `result` may be left out."""

    def begin(self, subject: Subject) -> None:
        """Before the first batch."""

    def output(self, arm: Arm, out: SuiteOutput, trace: Trace) -> None:
        """What an arm has made of a batch; the arms come in their order."""

    def batch(self, trace: Trace) -> None:
        """A batch, after all of its arms."""

    def result(self) -> Metrics:
        """After the last batch: numbers by the key that `metrics.json` has them under."""
        raise NotImplementedError


@torch.no_grad()
def walk(lm: LanguageModel, arms: Sequence[Arm], traces: Iterable[Trace], observers: Sequence[Observer]) -> Metrics:
    """The results of all observers. Raises ValueError where two of them give a number under one key."""
    subject = Subject(lm, tuple(arms))
    for arm in arms:
        arm.suite.eval()
    for observer in observers:
        observer.begin(subject)
    for trace in traces:
        for arm in arms:
            out = arm.suite(trace, mode=arm.mode)
            for observer in observers:
                observer.output(arm, out, trace)
        for observer in observers:
            observer.batch(trace)
    metrics: Metrics = {}
    for observer in observers:
        found = observer.result()
        if twice := sorted(metrics.keys() & found.keys()):
            raise ValueError(f"{type(observer).__name__} gives {twice[0]}, which another observer has given before")
        metrics |= found
    return metrics
