"""The encoder rows that make the best of the connections that are left, before finetuning begins.

A feature that has lost connections is off at every token, and those behind it more so. But its pre-activation in the
pruned pass is linear in its own row and bias (V_ij = E_i . P D_j), so the row that brings it nearest to what it is in
the plain pass is a linear regression of its own:

    minimise over E_i, b_i    sum over t in T_i of (pre_i(t) - plain_i(t))^2  +  ridge |T_i| |change of (E_i, b_i)|^2

    pre     in the pass that is trained, from the codes of the sites before; these have been fitted already, and what
            they miss is made up for by what comes behind them
    plain   in the plain pass, with the row of before
    T_i     the tokens at which i fires in the plain pass, those at which it fires in this one, and some that are drawn;
            completed in every round, as a fitted feature fires elsewhere

All features of a site are solved for at once, by conjugate gradients whose step and direction belong to each feature,
in the units of the dictionaries. The dense pass is fitted alike, so that one can be compared with the other.
"""

from typing import NamedTuple

import torch

from scae.config import Refit
from scae.core.typing import Float, Tensor
from scae.kernels import SparseCode
from scae.lm import Trace
from scae.sites import Site
from scae.suite import Mode, Reading, Suite, passes

LEAST = 1e-3  # of a ridge: a feature without a token stays as it is


class Unexplained(NamedTuple):
    """The squared differences to the plain pass, over those of its pre-activations to their mean: with the rows of
    before and with those that were found, at the tokens of the last round."""

    before: float
    after: float


@torch.no_grad()
def refit(suite: Suite, trace: Trace, mode: Mode, config: Refit, *, seed: int) -> dict[Site, Unexplained]:
    """Fit the encoders of all sites that read from others, on one batch; seed: of the tokens that are drawn."""
    generator = torch.Generator().manual_seed(seed)
    true = {site: read.flatten(0, 1) for site, read in passes.true_inputs(suite, trace)}
    live = trace.live.flatten()
    found: dict[Site, Unexplained] = {}

    def meet(reading: Reading) -> None:
        site, dictionary = reading.site, reading.dictionary
        if not suite.layout.upstream(site):
            return
        plain = dictionary.encoder.preactivations(dictionary.shift(true[site]))
        drawn = torch.rand(plain.shape, generator=generator) < config.drawn / dictionary.n_features
        known = dictionary.activation.support(plain, live).mask() | (drawn.to(live.device) & live[:, None])
        regression = _Regression(reading)
        own = regression.rows
        for _ in range(config.rounds):
            known |= regression.firing(live)
            regression.solve(SparseCode.where(known, plain), own, ridge=config.ridge, steps=config.steps)
        entries, rows = SparseCode.where(known, plain), regression.rows
        found[site] = Unexplained(*(regression.unexplained(entries, these) for these in (own, rows)))

    with suite.inference():
        suite(trace, mode, meet=meet)
    return found


class _Regression:
    """Of the features of one site. What is solved for is `[feature, d_in + 1]`: rows, biases in the last column."""

    def __init__(self, reading: Reading) -> None:
        self.reading, self.encoder = reading, reading.dictionary.encoder

    @property
    def rows(self) -> Float[Tensor, "feature d_in_plus_1"]:
        return torch.cat([self.encoder.W, self.encoder.b[:, None]], dim=1)

    @rows.setter
    def rows(self, values: Float[Tensor, "feature d_in_plus_1"]) -> None:
        self.encoder.W.copy_(values[:, :-1])
        self.encoder.b.copy_(values[:, -1])

    def firing(self, live: Tensor) -> Tensor:
        support = self.reading.dictionary.activation.support
        return torch.cat([support(pre, live[part]).mask() for part, pre in self.reading.parts()])

    def solve(self, plain: SparseCode, own: Float[Tensor, "feature d_in_plus_1"], *, ridge: float, steps: int) -> None:
        """Move the rows towards where these pre-activations are nearest to `plain`, and not far from `own`."""
        count = torch.zeros_like(self.encoder.b).index_add_(0, plain.col, torch.ones_like(plain.value))
        weight = (ridge * count + LEAST)[:, None]
        found = self.rows
        left = self._back(plain, plain.value - self._at(plain)) - weight * (found - own)
        direction, size = left, left.square().sum(1)
        least = torch.finfo(size.dtype).tiny
        for _ in range(steps):
            self.rows = direction
            curved = self._back(plain, self._at(plain)) + weight * direction
            step = (size / (direction * curved).sum(1).clamp_min(least))[:, None]
            found, left = found + step * direction, left - step * curved
            size, before = left.square().sum(1), size
            direction = left + (size / before.clamp_min(least))[:, None] * direction
        self.rows = found

    def unexplained(self, plain: SparseCode, rows: Float[Tensor, "feature d_in_plus_1"]) -> float:
        """With these rows; the rows of the encoder stay."""
        kept, self.rows = self.rows, rows
        error = (plain.value - self._at(plain)).square().sum()
        self.rows = kept
        return float(error / (plain.value - plain.value.mean()).square().sum())

    def _at(self, entries: SparseCode) -> Float[Tensor, " nnz"]:
        """The pre-activations at some entries, linear in the rows."""
        found = []
        for part, pre in self.reading.parts():
            inside = slice(int(entries.crow[part.start]), int(entries.crow[part.stop]))
            found.append(pre[entries.row[inside] - part.start, entries.col[inside]])
        return torch.cat(found)

    def _back(self, entries: SparseCode, value: Float[Tensor, " nnz"]) -> Float[Tensor, "feature d_in_plus_1"]:
        """The transpose of `_at`."""
        with torch.enable_grad():
            code = self.encoder.differentiable(entries, self.reading.shifted, self.reading.arrivals())
            parameters = [self.encoder.W, self.encoder.b]
            rows, biases = torch.autograd.grad(code.value, parameters, grad_outputs=value)
        return torch.cat([rows, biases[:, None]], dim=1)
