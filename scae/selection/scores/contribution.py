"""The mean contribution to the pre-activation, in the plain pass (`scae.selection.contributions` has the equations)."""

from scae.config import Connectivity
from scae.core.typing import Float, Tensor
from scae.selection.budgets import importance
from scae.selection.contributions import mean_contributions
from scae.selection.sample import Traces, record
from scae.selection.scores.score import Score
from scae.sites import Site
from scae.suite import Suite


class Contribution(Score):
    def __init__(self, config: Connectivity, suite: Suite, traces: Traces, *, seed: int) -> None:
        self._suite, self._weighting = suite, config.weighting
        self._sample = record(suite, traces, megabytes=config.chunk_mb)

    @property
    def batch_tokens(self) -> int:
        return max((one.live.numel() for one in self._sample.records), default=0)

    def __call__(self, site: Site, rows: slice) -> Float[Tensor, "down up"]:
        return mean_contributions(self._suite, site, rows, self._sample, self._weighting)

    def importance(self, site: Site) -> Float[Tensor, " down"] | None:
        """None for the sink: an error of a logit is no error of a site."""
        return importance(self._suite, site, self._sample.records) if site in self._suite else None
