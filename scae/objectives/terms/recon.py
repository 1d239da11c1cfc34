"""How far the reconstruction of each site is from what its module wrote.

sum over sites of ||y - yhat||^2 / ||y - mean y||^2                                               (fvu)
sum over sites of the mean of u = ||y - yhat||^2 / d_model in the site's unit                     (mse)
the same of u up to a knee k, 2 sqrt(k u) - k beyond: no token has a larger gradient than one     (huber,
whose error is sqrt(k); a site's own units make it as large as fvu                          Huber 1964)
"""

import torch

from scae.core.typing import Float, Stream, Tensor
from scae.objectives.comparison import Comparison, variation
from scae.objectives.terms.term import Term
from scae.sites import Site


class Recon(Term):
    name, reads_stream = "recon", False
    what = "the reconstruction"

    def __init__(self, *, weight: float, kind: str, knee: float) -> None:
        super().__init__(weight=weight)
        self.kind, self.knee = kind, knee

    def __call__(self, comparison: Comparison) -> Float[Tensor, ""]:
        total = comparison.trace.embed.new_zeros(())
        for each in self._by_site(comparison).values():
            total = total + each.sum()
        return total

    def by_token(self, comparison: Comparison) -> dict[str, Float[Tensor, "batch pos"]]:
        live = comparison.trace.live
        return {
            f"{self.what} at {site}": each.new_zeros(live.shape).masked_scatter(live, each)
            for site, each in self._by_site(comparison).items()
        }

    def _by_site(self, comparison: Comparison) -> dict[Site, Float[Tensor, " live"]]:
        """What each text token adds."""
        reconstructions = comparison.out.reconstructions
        return {site: self._each(comparison, site, one) for site, one in reconstructions.items()}

    def _each(self, comparison: Comparison, site: Site, reconstruction: Stream) -> Float[Tensor, " live"]:
        trace = comparison.trace
        target, ours = trace.outputs[site.module][trace.live], reconstruction[trace.live]
        if self.kind == "fvu":
            return (target - ours).square().sum(1) / variation(target)
        u = ((target - ours) / comparison.out.units[site]).square().mean(1)
        return (self._huber(u) if self.kind == "huber" else u) / comparison.n_live

    def _huber(self, u: Float[Tensor, " live"]) -> Float[Tensor, " live"]:
        beyond = 2 * (self.knee * u.clamp_min(self.knee)).sqrt() - self.knee
        return torch.where(u > self.knee, beyond, u)
