"""What each dictionary does to the predictions of the live model by itself, everything else being the model's own.

alone/ce_diff/<site>        ce with the reconstruction of this site alone in place, above that of the model
alone/ce_recovered/<site>   (ce_zero - ce) / (ce_zero - ce of the model); ce_zero: this site alone is 0
alone/kl/<site>             mean KL(model || with it)

The loss recovered of other libraries (SAEBench, Karvonen et al. 2025, `ce_loss_score`), but for positions that hold no
text, where the model's own activations stay. Measured for suites that are not pruned: the arms of others say it of all
dictionaries together.
"""

from functools import partial

import torch

from scae.core.typing import Float, Stream, Tensor
from scae.evaluation.ablations import spliced_stream
from scae.evaluation.arms import Arm
from scae.evaluation.compared import Compared, compare
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
        others = []
        for site, rebuilt in self._rebuilt.items():
            for sums, value in ((self._with[site], rebuilt), (self._without[site], torch.zeros_like(rebuilt[0, 0]))):
                stream = trace.at_scored(spliced_stream(self._lm, trace, {site.module: value}))
                others.append((sums, partial(self._predicted, stream)))
        compare(trace, self._lm.paths, self._model, others)
        self._rebuilt = {}

    def _predicted(self, stream: Float[Tensor, "scored d_model"], part: slice) -> Float[Tensor, "scored vocab"]:
        return self._lm.paths.logits(stream[part])

    def result(self) -> Metrics:
        metrics: Metrics = {}
        for site, sums in self._with.items():
            zero = self._without[site].ce
            metrics[f"alone/ce_diff/{site}"] = sums.ce - self._model.ce
            metrics[f"alone/ce_recovered/{site}"] = (zero - sums.ce) / (zero - self._model.ce)
            metrics[f"alone/kl/{site}"] = sums.kl
        return metrics
