"""What the best codes over the same dictionaries would leave: a code of as many features as the dictionary's own, token
by token, searched for instead of encoded (`scae.dictionaries.pursuit`).

pursuit/fvu/<site>   as `plain/fvu/<site>`, of the code that was found; and `pursuit/fvu_mean` over sites
pursuit/l0/<site>    mean number of its activations > 0 a token: never more than `plain/l0/<site>`, less where fewer do

A search starts from nothing, and can end above where the encoder already was. So the dictionary's own code is refined
too, with the same features, and of the two each token has the one that leaves less: no token has a worse one than the
encoder gave it.

What lies between the two FVU is the encoder's loss, not the dictionary's. A transcoder's target is what its module
writes: the search sees it, the encoder does not, and could not find some of these codes however it were trained.
"""

import torch

from scae.dictionaries import pursue, refine
from scae.evaluation.arms import Arm
from scae.evaluation.moments import Moments
from scae.evaluation.walk import Metrics, Observer, Subject
from scae.lm import Trace
from scae.sites import Site
from scae.suite import SuiteOutput


class Pursuit(Observer):
    """Beside one arm that runs the plain pass, by name. method, steps: of the search."""

    def __init__(self, name: str, *, method: str, steps: int) -> None:
        self.name, self.method, self.steps = name, method, steps

    def begin(self, subject: Subject) -> None:
        sites = next(list(arm.suite.sites) for arm in subject.arms if arm.name == self.name)
        self._moments = Moments(sites)
        self._error: dict[Site, float] = dict.fromkeys(sites, 0.0)
        self._firings: dict[Site, int] = dict.fromkeys(sites, 0)

    def output(self, arm: Arm, out: SuiteOutput, trace: Trace) -> None:
        if arm.name != self.name:
            return
        live = trace.live.flatten()
        for site in self._error:
            dictionary, own = arm.suite[site], out.codes[site]
            target = trace.outputs[site.module].flatten(0, 1)
            active = torch.zeros_like(live, dtype=torch.int64).index_add_(0, own.row, (own.value > 0).long())
            found = pursue(
                dictionary, target, live, method=self.method, k=active, steps=self.steps, chunk_mb=arm.suite.chunk_mb
            )
            codes = [found, refine(dictionary, own, target, steps=self.steps)]
            errors = torch.stack([(target - dictionary.decode(code)).double().square().sum(1) for code in codes])
            error, best = errors.min(0)
            active = torch.stack([code.crow.diff() for code in codes]).gather(0, best[None])[0]
            self._error[site] += float(error[live].sum())
            self._firings[site] += int(active[live].sum())

    def batch(self, trace: Trace) -> None:
        self._moments.batch(trace)

    def result(self) -> Metrics:
        fvu = {site: error / self._moments.variance(site) for site, error in self._error.items()}
        metrics = {"pursuit/fvu_mean": sum(fvu.values()) / len(fvu)}
        for site in fvu:
            metrics[f"pursuit/fvu/{site}"] = fvu[site]
            metrics[f"pursuit/l0/{site}"] = self._firings[site] / self._moments.n
        return metrics
