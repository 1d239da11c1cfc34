"""Uniform random numbers: connections that mean nothing."""

import torch

from scae.config import Connectivity
from scae.core.typing import Float, Tensor
from scae.selection.sample import Traces
from scae.selection.scores.score import Score
from scae.sites import Site
from scae.suite import Suite


class Random(Score):
    measured = False

    def __init__(self, config: Connectivity, suite: Suite, traces: Traces, *, seed: int) -> None:
        self._suite, self._generator = suite, torch.Generator().manual_seed(seed)

    def __call__(self, site: Site, rows: slice) -> Float[Tensor, "down up"]:
        shape = (rows.stop - rows.start, self._suite.layout.n_upstream(site))
        return torch.rand(shape, generator=self._generator).to(self._suite.lm.device) + 1e-6  # 0 would mean "never"
