"""What does not come along the connections.

connectivity/bypass/<site>   Var over tokens of what a pre-activation owes to the embedding and the biases, over its
                             whole variance; the median over features that vary. Above 1 where the two parts cancel.
                             None for complete connections: their pass adds everything up before anything is read
"""

import torch

from scae.core.typing import Tensor
from scae.evaluation.walk import Metrics, Observer, Subject
from scae.lm import Trace
from scae.sites import Site
from scae.suite import Reading


class Bypass(Observer):
    """Of one arm that runs the pruned pass, by name; it runs that pass once more, to see what arrives at a feature."""

    def __init__(self, name: str) -> None:
        self.name = name

    def begin(self, subject: Subject) -> None:
        self._suite = next(arm.suite for arm in subject.arms if arm.name == self.name)
        self._sums: dict[Site, list[Tensor]] = {}

    def batch(self, trace: Trace) -> None:
        live = trace.live.flatten()

        def meet(reading: Reading) -> None:
            site, parts = reading.site, [x[live].double() for x in reading.alone_and_all()]
            new = [torch.tensor(len(parts[0]))] + [x.sum(0) for x in parts] + [x.square().sum(0) for x in parts]
            before = self._sums.get(site)
            self._sums[site] = new if before is None else [a + b for a, b in zip(before, new, strict=True)]

        if not self._suite.connections.is_complete:
            self._suite(trace, meet=meet)

    def result(self) -> Metrics:
        metrics = {}
        for site, (n, base, pre, base2, pre2) in self._sums.items():
            whole = pre2 / n - (pre / n).square()
            share = (base2 / n - (base / n).square())[whole > 0] / whole[whole > 0]
            metrics[f"connectivity/bypass/{site}"] = float(share.median())
        return metrics
