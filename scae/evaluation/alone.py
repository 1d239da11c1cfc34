"""What each dictionary does to the predictions of the live model by itself, everything else being the model's own.

alone/ce_diff/<site>        ce with the reconstruction of this site alone in place, above that of the model
alone/ce_recovered/<site>   (ce_zero - ce) / (ce_zero - ce of the model); ce_zero: this site alone is 0
alone/kl/<site>             mean KL(model || with it)

The loss recovered of other libraries (SAEBench, Karvonen et al. 2025, `ce_loss_score`), but for positions that hold no
text, where the model's own activations stay. Measured for suites that are not pruned: the arms of others say it of all
dictionaries together.
"""

from collections.abc import Iterable

import torch

from scae.core.typing import Stream
from scae.evaluation.ablations import spliced_stream
from scae.evaluation.arms import Arm
from scae.evaluation.compared import Compared, log_probabilities
from scae.evaluation.walk import Metrics, Observer, Subject
from scae.lm import Trace
from scae.sites import Site
from scae.suite import Suite, SuiteOutput


class Alone(Observer):
    """Of the arm that runs the plain pass of this suite."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self._model = Compared()
        self._with = {site: Compared() for site in suite.sites}
        self._without = {site: Compared() for site in suite.sites}
        self._rebuilt: dict[Site, Stream] = {}

    def begin(self, subject: Subject) -> None:
        self._lm = subject.lm

    def output(self, arm: Arm, out: SuiteOutput, trace: Trace) -> None:
        if arm.suite is self._suite and arm.mode == "plain":
            self._rebuilt = out.reconstructions

    def batch(self, trace: Trace) -> None:
        lm = self._lm
        streams = [(self._model, trace.stream(lm.paths.modules))]
        for site, rebuilt in self._rebuilt.items():
            module = site.module
            zero = torch.zeros_like(rebuilt[0, 0])
            streams.append((self._with[site], spliced_stream(lm, trace, {module: rebuilt})))
            streams.append((self._without[site], spliced_stream(lm, trace, {module: zero})))
        self._compare(trace, streams)
        self._rebuilt = {}

    def _compare(self, trace: Trace, streams: Iterable[tuple[Compared, Stream]]) -> None:
        (_, clean), *_ = streams = list(streams)
        paths, targets = self._lm.paths, trace.targets
        clean = trace.at_scored(clean)
        for part in Compared.parts(len(targets), paths.W_U.shape[1]):
            p = log_probabilities(paths.logits(clean[part]))
            for sums, stream in streams:
                sums.add(log_probabilities(paths.logits(trace.at_scored(stream)[part])), p, targets[part])

    def result(self) -> Metrics:
        metrics: Metrics = {}
        for site, sums in self._with.items():
            zero = self._without[site].ce
            metrics[f"alone/ce_diff/{site}"] = sums.ce - self._model.ce
            metrics[f"alone/ce_recovered/{site}"] = (zero - sums.ce) / (zero - self._model.ce)
            metrics[f"alone/kl/{site}"] = sums.kl
        return metrics
