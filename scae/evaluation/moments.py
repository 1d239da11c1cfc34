"""First and second moments of what the modules write, over live tokens, in float64."""

from scae.core.typing import Float, Tensor
from scae.evaluation.walk import Metrics, Observer
from scae.lm import Trace
from scae.sites import Site


class Moments(Observer):
    """Of every site that has a dictionary in some arm. No number of its own: the mean and the variance of others."""

    def __init__(self, sites: list[Site]) -> None:
        self.n = 0
        self._sum: dict[Site, Tensor] = {}
        self._square = dict.fromkeys(sites, 0.0)

    def batch(self, trace: Trace) -> None:
        self.n += trace.n_live
        for site in self._square:
            y = trace.outputs[site.module][trace.live].double()
            self._sum[site] = self._sum.get(site, 0) + y.sum(0)
            self._square[site] += float(y.square().sum())

    def result(self) -> Metrics:
        return {}

    def mean(self, site: Site) -> Float[Tensor, " d_model"]:
        return self._sum[site] / self.n

    def variance(self, site: Site) -> float:
        """`sum ||y - mean y||^2`."""
        return self._square[site] - self.n * float(self.mean(site).square().sum())
