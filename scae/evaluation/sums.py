"""Running sums over a corpus, in float64."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from scae.lm import LinearPaths, Trace
from scae.sites import Site
from scae.suite import SuiteOutput
from scae.typing import Float, Int, Tensor

LOGITS = 1 << 22  # numbers of each of the few tables positions x vocabulary that are held at a time, in float64


class Moments:
    """First and second moments of the module outputs over live tokens."""

    def __init__(self, sites: list[Site]) -> None:
        self.n = 0
        self._sum: dict[Site, Tensor] = {}
        self._square = dict.fromkeys(sites, 0.0)

    def add(self, trace: Trace) -> None:
        self.n += trace.n_live
        for site in self._square:
            y = trace.outputs[site.module][trace.live].double()
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

    def add(self, out: SuiteOutput, trace: Trace) -> None:
        """What the dictionaries did; what follows from it for the predictions comes from `add_predictions`."""
        self.n_live += trace.n_live
        for site in self.sites:
            error = (trace.outputs[site.module] - out.outputs[site.module])[trace.live]
            self._error[site] += float(error.double().square().sum())
            code = out.codes[site]
            self._firings[site] += int((code.value > 0).sum())
            self._fired[site] = code.fired() | self._fired.get(site, torch.zeros_like(code.fired()))

    def compare(
        self,
        q: Float[Tensor, "scored vocab"],
        p: Float[Tensor, "scored vocab"],
        targets: Int[Tensor, " scored"],
    ) -> None:
        """Log-probabilities of the arm and of the model at some positions, and the tokens that followed."""
        self.n_scored += len(targets)
        self._ce -= float(q.gather(1, targets[:, None]).sum())
        self._kl += float((p.exp() * (p - q)).sum())
        self._agree += int((q.argmax(-1) == p.argmax(-1)).sum())

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


def add_predictions(
    model: ArmSums,
    arms: Mapping[str, ArmSums],
    residuals: Mapping[str, Float[Tensor, "scored d_model"]],
    trace: Trace,
    paths: LinearPaths,
) -> None:
    """Compare what every arm predicts from its final stream at the scored positions with what the model does.

    model: the sums of the model itself.
    A few positions at a time: five tables of `LOGITS` float64 are held at most (or one position's), however long the
    batch and however many the arms are; the model's predictions are computed once for all arms.
    """
    clean, targets = trace.at_scored(trace.stream(paths.modules)), trace.targets
    step = max(1, LOGITS // paths.W_U.shape[1])
    for start in range(0, len(targets), step):
        part = slice(start, start + step)
        p = _log_probabilities(clean[part], paths)
        model.compare(p, p, targets[part])
        for name, arm in arms.items():
            arm.compare(_log_probabilities(residuals[name][part], paths), p, targets[part])


def _log_probabilities(residual: Float[Tensor, "scored d_model"], paths: LinearPaths) -> Float[Tensor, "scored vocab"]:
    return F.log_softmax(paths.logits(residual).double(), dim=-1)
