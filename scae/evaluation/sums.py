"""Running sums over a corpus, in float64."""

import torch
import torch.nn.functional as F

from scae.lm import LanguageModel, Trace
from scae.objectives import Comparison
from scae.sites import Site
from scae.suite import SuiteOutput
from scae.typing import Float, Tensor


class Moments:
    """First and second moments of the module outputs over live tokens."""

    def __init__(self, sites: list[Site]) -> None:
        self.n = 0
        self._sum: dict[Site, Tensor] = {}
        self._square = dict.fromkeys(sites, 0.0)

    def add(self, trace: Trace) -> None:
        self.n += trace.n_live
        for site in self._square:
            y = trace.outputs[site][trace.live].double()
            self._sum[site] = self._sum.get(site, 0) + y.sum(0)
            self._square[site] += float(y.square().sum())

    def mean(self, site: Site) -> Float[Tensor, " d_model"]:
        return self._sum[site] / self.n

    def variance(self, site: Site) -> float:
        """`sum ||y - mean y||^2`."""
        return self._square[site] - self.n * float(self.mean(site).square().sum())


class ArmSums:
    """What one arm leaves behind over the corpus."""

    def __init__(self, sites: list[Site]) -> None:
        self.sites = sites
        self.n_scored = self.n_live = 0
        self._ce = self._kl = self._agree = 0.0
        self._error = dict.fromkeys(sites, 0.0)
        self._firings = dict.fromkeys(sites, 0)
        self._fired: dict[Site, Tensor] = {}

    def add(self, out: SuiteOutput, trace: Trace, lm: LanguageModel) -> None:
        comparison = Comparison(out, trace, lm.paths)
        q, p = (F.log_softmax(x.double(), dim=-1) for x in (comparison.logits, comparison.clean_logits))
        self.n_scored += len(comparison.targets)
        self.n_live += trace.n_live
        self._ce -= float(q.gather(1, comparison.targets[:, None]).sum())
        self._kl += float((p.exp() * (p - q)).sum())
        self._agree += int((q.argmax(-1) == p.argmax(-1)).sum())
        for site in self.sites:
            error = (trace.outputs[site] - out.outputs[site])[trace.live]
            self._error[site] += float(error.double().square().sum())
            code = out.codes[site]
            self._firings[site] += int((code.value > 0).sum())
            self._fired[site] = code.fired() | self._fired.get(site, torch.zeros_like(code.fired()))

    @property
    def ce(self) -> float:
        return self._ce / self.n_scored

    @property
    def kl(self) -> float:
        return self._kl / self.n_scored

    @property
    def top1(self) -> float:
        return self._agree / self.n_scored

    def squared_error(self, site: Site) -> float:
        return self._error[site]

    def l0(self, site: Site) -> float:
        return self._firings[site] / self.n_live

    def dead(self, site: Site) -> float:
        return 1.0 - float(self._fired[site].double().mean())
