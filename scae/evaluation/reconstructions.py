"""What the dictionaries of every arm do, as ratios of corpus sums in float64.

fvu/<site>       sum ||y - yhat||^2 / sum ||y - mean y||^2, the mean over the whole corpus; and the mean and the largest
                 over sites
l0/<site>        mean number of activations > 0 a token. BatchTopK: at thresholds learned in the arm's own pass: in its
                 training, or on training text before it is evaluated (`scae.suite.thresholds`)
dead/<site>      share of the features that never fire on these tokens
lm/modules, lm/replaced   the attentions and MLPs of the model, and how many of them have a dictionary
"""

import torch

from scae.core.typing import Tensor
from scae.evaluation.arms import Arm
from scae.evaluation.moments import Moments
from scae.evaluation.walk import Metrics, Observer, Subject
from scae.lm import Trace
from scae.sites import Site
from scae.suite import SuiteOutput


class Reconstructions(Observer):
    """moments: of the same text."""

    def __init__(self, moments: Moments) -> None:
        self.moments = moments

    def begin(self, subject: Subject) -> None:
        replaced = [site for site in subject.sites if site.module.writes]
        self._counts = {"lm/modules": float(len(subject.lm.paths.modules)), "lm/replaced": float(len(replaced))}
        self._sums = {arm.name: _Sums(list(arm.suite.sites)) for arm in subject.arms}

    def output(self, arm: Arm, out: SuiteOutput, trace: Trace) -> None:
        self._sums[arm.name].add(out, trace)

    def result(self) -> Metrics:
        metrics = dict(self._counts)
        for name, sums in self._sums.items():
            metrics |= {f"{name}/{key}": value for key, value in sums.metrics(self.moments).items()}
        return metrics


class _Sums:
    """Of one arm."""

    def __init__(self, sites: list[Site]) -> None:
        self.n_live = 0
        self._error = dict.fromkeys(sites, 0.0)
        self._firings = dict.fromkeys(sites, 0)
        self._fired: dict[Site, Tensor] = {}

    def add(self, out: SuiteOutput, trace: Trace) -> None:
        self.n_live += trace.n_live
        for site in self._error:
            error = (trace.outputs[site.module] - out.outputs[site.module])[trace.live]
            self._error[site] += float(error.double().square().sum())
            code = out.codes[site]
            self._firings[site] += int((code.value > 0).sum())
            self._fired[site] = code.fired() | self._fired.get(site, torch.zeros_like(code.fired()))

    def metrics(self, moments: Moments) -> Metrics:
        fvu = {site: error / moments.variance(site) for site, error in self._error.items()}
        metrics = {"fvu_mean": sum(fvu.values()) / len(fvu), "fvu_max": max(fvu.values())}
        for site in fvu:
            metrics[f"fvu/{site}"] = fvu[site]
            metrics[f"l0/{site}"] = self._firings[site] / self.n_live
            metrics[f"dead/{site}"] = 1.0 - float(self._fired[site].double().mean())
        return metrics
