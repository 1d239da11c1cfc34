"""How well each site is rebuilt in each pass, over live tokens: its target y, the reconstruction yhat, the error e.

fvu                  sum ||e||^2 / sum ||y - mean y||^2
explained_variance   1 - sum ||e - mean e||^2 / sum ||y - mean y||^2: an error that is the same for all is forgiven
cosine               mean of cos(y, yhat)
mse                  mean of ||e||^2 / d, in the unit of what the site writes
l0, l1               mean number, and mean sum, of a token's activations > 0
"""

import torch.nn.functional as F

from scae.analysis.sums import Summing, Sums
from scae.core.typing import Tensor
from scae.evaluation import Arm
from scae.evaluation.moments import Moments
from scae.lm import Trace
from scae.sites import Site
from scae.suite import SuiteOutput


class Fidelity(Summing):
    """Of arms by name; `<arm>/<site>/...` and `n_live`."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self._names = names

    def output(self, arm: Arm, out: SuiteOutput, trace: Trace) -> None:
        if arm.name not in self._names:
            return
        for site, code in out.codes.items():
            target, rebuilt = (of[site.module][trace.live].double() for of in (trace.outputs, out.outputs))
            error = target - rebuilt
            firing = code.value[code.value > 0].double()
            of_site = {
                "error": error.sum(0),
                "squares": error.square().sum(),
                "scaled": (error / out.units[site]).square().mean(1).sum(),
                "cosine": F.cosine_similarity(target, rebuilt).sum(),
                "l0": (code.value > 0).sum(),
                "l1": firing.sum(),
            }
            for key, value in of_site.items():
                self.add(f"{arm.name}/{site}/{key}", value)

    def batch(self, trace: Trace) -> None:
        self.add("n_live", trace.live.sum())


def fidelity(sums: Sums, name: str, site: Site, moments: Moments) -> dict[str, float]:
    """The numbers of one site in one pass."""
    n = float(sums["n_live"])

    def of(key: str) -> Tensor:
        return sums[f"{name}/{site}/{key}"]

    variance = moments.variance(site)
    spread = float(of("squares")) - float(of("error").square().sum()) / n
    return {
        "l0": float(of("l0")) / n,
        "l1": float(of("l1")) / n,
        "fvu": float(of("squares")) / variance,
        "explained_variance": 1 - spread / variance,
        "cosine": float(of("cosine")) / n,
        "mse": float(of("scaled")) / n,
    }
