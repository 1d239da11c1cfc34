"""A pass beside the clean run of the model: what loss terms compare."""

from functools import cached_property

import torch

from scae.core.processes import averaged
from scae.core.typing import Bool, Float, Int, Stream, Tensor
from scae.lm import LinearPaths, Trace
from scae.suite import SuiteOutput


class Comparison:
    """With what several terms share; nothing is computed before a term asks for it."""

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


def variation(target: Float[Tensor, "live d_model"]) -> Float[Tensor, ""]:
    """`sum ||y - mean y||^2`, its mean over devices; the mean of y is that of all of them."""
    mean = averaged(target.sum(0)) / averaged(target.new_tensor(float(len(target))))
    return averaged((target - mean).square().sum())
