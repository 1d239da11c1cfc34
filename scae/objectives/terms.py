"""Loss terms. Each compares a pass over the suite with the clean run at text positions, and none has a unit.

recon       sum over sites of ||y - yhat||^2 / ||y - mean y||^2                  (fvu)
            sum over sites of the mean of u = ||y - yhat||^2 / d_model in the site's unit              (mse)
            the same of u up to a knee k, 2 sqrt(k u) - k beyond: no token has a larger gradient      (huber,
            than one whose error is sqrt(k); a site's own units make it as large as fvu       Huber 1964)
block_mse   mean over later layers of ||r - rhat||^2 / ||r - mean r||^2, r the residual stream
                                                                                 (Braun et al. 2024, section 2.3)
logit_kl    T^2 KL(p_T || q_T), model and suite, in nats a token                 (Hinton et al. 2015 for T^2)
ce          -log q(next token), in nats a token
sparsity    sum over sites of the L1 norm of a token's activations
auxk        sum over sites of ||e - ehat||^2 / ||e||^2, ehat from dead features  (Gao et al. 2024, appendix A.2)
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F

from scae.lm import LinearPaths, Trace
from scae.processes import averaged
from scae.sites import Site
from scae.suite import SuiteOutput
from scae.typing import Bool, Float, Int, Stream, Tensor


class Comparison:
    """A pass beside the clean run, with what several terms share; nothing is computed before a term asks for it."""

    def __init__(self, out: SuiteOutput, trace: Trace, paths: LinearPaths) -> None:
        self.out, self.trace, self.paths = out, trace, paths

    @cached_property
    def scored(self) -> Bool[Tensor, "batch pos_minus_1"]:
        return self.trace.scored

    @cached_property
    def targets(self) -> Int[Tensor, " scored"]:
        return self.trace.targets

    @cached_property
    def logits(self) -> Float[Tensor, "scored vocab"]:
        """The suite's predictions."""
        if self.out.logits is not None:
            return self.trace.at_scored(self.out.logits)
        return self._predictions(self.out.residual())

    @cached_property
    @torch.no_grad()
    def clean_logits(self) -> Float[Tensor, "scored vocab"]:
        """The model's predictions."""
        return self._predictions(self.trace.stream(self.paths.modules))

    @cached_property
    def n_live(self) -> Float[Tensor, ""]:
        """Text positions, the mean over devices."""
        return averaged(self.trace.live.sum().to(self.trace.embed.dtype))

    @cached_property
    def n_scored(self) -> Float[Tensor, ""]:
        """Predictions, the mean over devices."""
        return averaged(self.scored.sum().to(self.trace.embed.dtype))

    def at_positions(self, scored: Float[Tensor, " scored"]) -> Float[Tensor, "batch pos"]:
        """A number for every prediction, at the position that makes it; 0 elsewhere."""
        out = scored.new_zeros(self.trace.live.shape)
        out[:, :-1][self.scored] = scored
        return out

    def _predictions(self, residual: Stream) -> Float[Tensor, "scored vocab"]:
        return self.paths.logits(self.trace.at_scored(residual))


def _variation(target: Float[Tensor, "live d_model"]) -> Float[Tensor, ""]:
    """`sum ||y - mean y||^2`, its mean over devices; the mean of y is that of all of them."""
    mean = averaged(target.sum(0)) / averaged(target.new_tensor(float(len(target))))
    return averaged((target - mean).square().sum())


class Term(ABC):
    """One part of a loss. `weight` is what the objective multiplies it with."""

    name: str
    reads_stream = True
    """Whether the term looks beyond each site's own reconstruction, at what the reconstructions do together."""
    aux: str | None = None
    """The auxiliary quantity that it wants of the dictionaries (`scae.dictionaries.Encoded`)."""

    def __init__(self, *, weight: float) -> None:
        self.weight = weight

    @abstractmethod
    def __call__(self, comparison: Comparison) -> Float[Tensor, ""]: ...

    def by_token(self, comparison: Comparison) -> dict[str, Float[Tensor, "batch pos"]]:
        """What each token adds to the term, by the part of it that it adds to; empty where a term is not split."""
        return {}


class Recon(Term):
    name, reads_stream = "recon", False

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
            f"the reconstruction at {site}": each.new_zeros(live.shape).masked_scatter(live, each)
            for site, each in self._by_site(comparison).items()
        }

    def _by_site(self, comparison: Comparison) -> dict[Site, Float[Tensor, " live"]]:
        """What each text token adds."""
        trace, by_site = comparison.trace, {}
        for site, reconstruction in comparison.out.reconstructions.items():
            target, ours = trace.outputs[site.module][trace.live], reconstruction[trace.live]
            if self.kind == "fvu":
                by_site[site] = (target - ours).square().sum(1) / _variation(target)
            else:
                u = ((target - ours) / comparison.out.units[site]).square().mean(1)
                by_site[site] = (self._huber(u) if self.kind == "huber" else u) / comparison.n_live
        return by_site

    def _huber(self, u: Float[Tensor, " live"]) -> Float[Tensor, " live"]:
        beyond = 2 * (self.knee * u.clamp_min(self.knee)).sqrt() - self.knee
        return torch.where(u > self.knee, beyond, u)


class BlockMse(Term):
    name = "block_mse"

    def __init__(self, *, weight: float, layers: str | list[int]) -> None:
        super().__init__(weight=weight)
        self.layers = layers

    def __call__(self, comparison: Comparison) -> Float[Tensor, ""]:
        trace, paths = comparison.trace, comparison.paths
        layers = range(paths.n_layers) if isinstance(self.layers, str) else self.layers
        total = trace.embed.new_zeros(())
        for layer in layers:
            clean = trace.stream(module for module in paths.modules if module.layer <= layer)
            target, ours = clean[trace.live], comparison.out.residual(layer)[trace.live]
            total = total + (target - ours).square().sum() / _variation(target)
        return total / len(layers)


class LogitKl(Term):
    name = "logit_kl"

    def __init__(self, *, weight: float, temperature: float) -> None:
        super().__init__(weight=weight)
        self.temperature = temperature

    def __call__(self, comparison: Comparison) -> Float[Tensor, ""]:
        q, p = self._log_probabilities(comparison)
        return F.kl_div(q, p, reduction="sum", log_target=True) / comparison.n_scored * self.temperature**2

    def by_token(self, comparison: Comparison) -> dict[str, Float[Tensor, "batch pos"]]:
        q, p = self._log_probabilities(comparison)
        each = F.kl_div(q, p, reduction="none", log_target=True).sum(-1) * self.temperature**2
        return {self.name: comparison.at_positions(each / comparison.n_scored)}

    def _log_probabilities(self, comparison: Comparison) -> tuple[Float[Tensor, "scored vocab"], ...]:
        """Of the suite, of the model."""
        p = F.log_softmax(comparison.clean_logits / self.temperature, dim=-1)
        q = F.log_softmax(comparison.logits / self.temperature, dim=-1)
        return q, p


class CrossEntropy(Term):
    name = "ce"

    def __call__(self, comparison: Comparison) -> Float[Tensor, ""]:
        return F.cross_entropy(comparison.logits, comparison.targets, reduction="sum") / comparison.n_scored

    def by_token(self, comparison: Comparison) -> dict[str, Float[Tensor, "batch pos"]]:
        each = F.cross_entropy(comparison.logits, comparison.targets, reduction="none")
        return {self.name: comparison.at_positions(each / comparison.n_scored)}


class Sparsity(Term):
    name, reads_stream, aux = "sparsity", False, "penalty"

    def __call__(self, comparison: Comparison) -> Float[Tensor, ""]:
        by_site = comparison.out.aux["penalty"].values()
        return torch.stack([each.sum() for each in by_site]).sum() / comparison.n_live


class AuxK(Term):
    name, reads_stream, aux = "auxk", False, "revived"

    def __call__(self, comparison: Comparison) -> Float[Tensor, ""]:
        trace, out = comparison.trace, comparison.out
        total = trace.embed.new_zeros(())
        live = trace.live.flatten()
        for site, revived in out.aux.get("revived", {}).items():
            error = (trace.outputs[site.module] - out.outputs[site.module]).detach()[trace.live]
            total = total + (error - revived[live]).square().sum() / averaged(error.square().sum())
        return total


@dataclass(frozen=True)
class LossOutput:
    """The weighted sum and the terms it was made of, before weighting."""

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]
