"""Silent features are let back in: a feature that has not fired for long gets the bias that it would have fired with.

Of k places at a token, a feature that has fallen behind gets none and no gradient, while what holds them moves on; AuxK
(Gao et al. 2024) turns its row towards the error, which does not lift it to where places are given away. So in a round,
on the latest batch and in the pass that is trained,

    b_i  rises by  min over live t of (weakest(t) - pre_i(t))        weakest(t) the lowest one that is active at t

for every feature i that is silent: it fires at the token where it lacked least, and what it is there for is learned
from the loss. A place is the weakest feature's at that token, so the price is small. After Wang et al. 2024
(auxiliary-loss-free load balancing), who raise and lower biases by a constant.
"""

from functools import partial
from typing import Any

import lightning
import torch

from scae.config import Revive
from scae.core.typing import Float, Tensor
from scae.dictionaries.encoder import Encoder
from scae.lm import Trace
from scae.sites import Site
from scae.suite import Mode, Suite
from scae.training.reading import Reading, visit

ABOVE = 1e-4  # in the unit of pre-activations: an equal one would not be sure of its place


class Revival(lightning.Callback):
    """Holds the rounds of a fit; they follow from the step, its batch and the suite, so there is no state."""

    def __init__(self, suite: Suite, config: Revive, *, steps: int) -> None:
        """steps: optimiser steps of the whole fit."""
        self.suite, self.config = suite, config
        self.last = config.until * steps

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, every = trainer.global_step, self.config.every
        if (batch_idx + 1) % trainer.accumulate_grad_batches or every is None or step % every or step > self.last:
            return
        margins = best_margins(self.suite, pl_module.trace(batch), pl_module.mode)
        raised = 0
        for site in pl_module.learning(step - 1):
            dictionary = self.suite[site]
            margin = trainer.strategy.reduce(margins[site], reduce_op="max")
            silent = dictionary.tokens_since_fired >= self.config.after
            rise = torch.where(silent, ABOVE - margin, 0).clamp_min(0)
            rise = torch.where(rise.isfinite(), rise, 0)
            pl_module.learner.retract(dictionary.encoder, partial(_raise, dictionary.encoder, rise))
            raised += int((rise > 0).sum())
        pl_module.log("train/revived", raised / sum(self.suite[site].n_features for site in self.suite.sites))


@torch.no_grad()
def _raise(encoder: Encoder, rise: Float[Tensor, " feature"]) -> None:
    encoder.b.add_(rise)


@torch.no_grad()
def best_margins(suite: Suite, trace: Trace, mode: Mode) -> dict[Site, Float[Tensor, " feature"]]:
    """By how much each feature's pre-activation exceeds, where it does so most, the weakest one that is active at the
    same token; at a token without any, 0. -inf without a live token."""
    live = trace.live.flatten()
    found: dict[Site, Tensor] = {}

    def meet(reading: Reading) -> None:
        activation = reading.dictionary.activation
        best = torch.full_like(reading.dictionary.encoder.b, -torch.inf)
        for part, pre in reading.parts():
            code = activation.support(pre, live[part])
            code = code.entries(activation(code).value > 0)
            weakest = pre.new_full((len(pre),), torch.inf).scatter_reduce(0, code.row, code.value, "amin")
            weakest = torch.where(weakest.isfinite(), weakest, 0)
            margin = torch.where(live[part][:, None], pre - weakest[:, None], -torch.inf)
            best = torch.maximum(best, margin.amax(0)) if len(margin) else best
        found[reading.site] = best

    visit(suite, trace, mode, meet)
    return found
