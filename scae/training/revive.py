"""Silent features are let back in: a feature that has not fired for long gets the bias that it would have fired with.

Of k places at a token, a feature that has fallen behind gets none and no gradient, while what holds them moves on; AuxK
(Gao et al. 2024) turns its row towards the error, which does not lift it to where places are given away. So in a round,
on the latest batch and in the pass that is trained, with weakest(t) the lowest pre-activation that is active at t and
e(t) the error of the site there,

    t_i      the live token where weakest(t) - pre_i(t) is smallest
    b_i      rises by that, where w = weakest(t_i) times its decoder row lessens the error: 2 e(t_i) . D_i > w |D_i|^2

for every feature i that is silent: it fires at the token where it lacked least, and what else it is for is learned from
the loss. A site that has no use for more features, whose error is small beside what is weakest there, gets none: let in
all the same, they took places in every round and gave them up again (measured). After Wang et al. 2024 (auxiliary-loss-
free load balancing), who raise and lower biases by a constant.
"""

from functools import partial
from typing import Any, NamedTuple

import lightning
import torch

from scae.config import Revive
from scae.core.typing import Float, Int, Tensor
from scae.dictionaries import Dictionary
from scae.dictionaries.encoder import Encoder
from scae.lm import Trace
from scae.sites import Site
from scae.suite import Mode, Reading, Suite, SuiteOutput
from scae.training.steps import ends_step

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
        if not ends_step(trainer, batch_idx) or every is None or step % every or step > self.last:
            return
        trace = pl_module.trace(batch)
        out, best = look(self.suite, trace, pl_module.mode)
        reduce, raised = partial(trainer.strategy.reduce, reduce_op="max"), 0
        for site in pl_module.learning(step - 1):
            dictionary, own = self.suite[site], best[site]
            margin = reduce(own.margin.clone())  # it reduces in place
            use = own.use(dictionary, trace.outputs[site.module] - out.outputs[site.module])
            use = torch.where(own.margin == margin, use, -torch.inf)  # of the process that holds the best token
            let_in = (dictionary.tokens_since_fired >= self.config.after) & (reduce(use) > 0) & margin.isfinite()
            rise = torch.where(let_in, ABOVE - margin, 0).clamp_min(0)
            pl_module.learner.retract(dictionary.encoder, partial(_raise, dictionary.encoder, rise))
            raised += int((rise > 0).sum())
        pl_module.log("train/revived", raised / sum(self.suite[site].n_features for site in self.suite.sites))


def _raise(encoder: Encoder, rise: Float[Tensor, " feature"]) -> None:
    encoder.b.add_(rise)


class Best(NamedTuple):
    """Of each feature of a site, where it lacks least. token: which, over batch x pos; weakest: the lowest
    pre-activation that is active there, 0 where none is; margin: what its own is above that, -inf without a live token.
    """

    margin: Float[Tensor, " feature"]
    token: Int[Tensor, " feature"]
    weakest: Float[Tensor, " feature"]

    def use(self, dictionary: Dictionary, error: Float[Tensor, "batch pos d_out"]) -> Float[Tensor, " feature"]:
        """> 0 where the error becomes smaller when the feature fires there as strongly as the weakest one does."""
        rows = dictionary.decoder.W * dictionary.writes.scale
        return 2 * (error.flatten(0, 1)[self.token] * rows).sum(1) - self.weakest * rows.square().sum(1)


@torch.no_grad()
def look(suite: Suite, trace: Trace, mode: Mode) -> tuple[SuiteOutput, dict[Site, Best]]:
    """What a pass gives at the thresholds of inference, and where its features lack least."""
    live = trace.live.flatten()
    best: dict[Site, Best] = {}

    def meet(reading: Reading) -> None:
        activation, parts = reading.dictionary.activation, []
        for part, pre in reading.parts():
            code = activation.support(pre, live[part])
            code = code.entries(activation(code).value > 0)
            weakest = pre.new_full((len(pre),), torch.inf).scatter_reduce(0, code.row, code.value, "amin")
            weakest = torch.where(weakest.isfinite(), weakest, 0)
            margin, token = torch.where(live[part][:, None], pre - weakest[:, None], -torch.inf).max(0)
            parts.append(Best(margin, token + part.start, weakest[token]))
        columns = [torch.stack(column) for column in zip(*parts, strict=True)]
        which = columns[0].max(0, keepdim=True).indices
        best[reading.site] = Best(*(column.gather(0, which)[0] for column in columns))

    with suite.inference():
        return suite(trace, mode, meet=meet), best
