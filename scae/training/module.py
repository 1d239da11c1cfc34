"""Training a suite: one Lightning module for pretraining and for finetuning, which differ in the pass they run."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import lightning
import torch
from torch.optim.lr_scheduler import LambdaLR

from scae.config import Training
from scae.core.processes import averaged, of_the_first
from scae.core.schedule import trapezoid
from scae.lm import Trace
from scae.objectives import LossOutput, Objective
from scae.sites import Site
from scae.suite import Mode, Suite, SuiteOutput, thresholds
from scae.training.optimizers import Group, create


class SuiteTraining(lightning.LightningModule):
    """Runs `mode` on every batch and lowers the objective.

    Every dictionary is clipped on its own (`clip`): a site whose gradient explodes must not silence the others.

    Where sites begin one after the other (`stagger`), one that waits runs in every pass as it is: its weights stay to
    the bit, its features do not grow dead; its thresholds learn, and its connections move where others' do.
    """

    def __init__(
        self, suite: Suite, objective: Objective, config: Training, *, mode: Mode, clip: float | None, identity: dict
    ) -> None:
        """identity: the plain values that tell to which stage of which experiment a checkpoint belongs."""
        super().__init__()
        self.save_hyperparameters(identity)
        self.suite, self.objective, self.config = suite, objective, config
        self.mode, self.clip = mode, clip
        thresholds.begin(suite, mode)
        self.computed: tuple[Trace, SuiteOutput] | None = None  # of this micro-step, until its backward pass is done

    def on_fit_start(self) -> None:
        self.suite.lm.to(self.device)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        for activation in self.suite.picking:
            activation.done = self.global_step / self.config.steps
        trace, out, loss = self._compute(batch)
        self.computed = trace, out
        self._count_firing(out)
        self._log_dead()
        self._log(loss)
        return loss.total

    def _log(self, loss: LossOutput) -> None:
        """Each process divides its own sums by those of all (`scae.core.processes`): their mean is the batch's loss."""
        *terms, total = averaged(torch.stack([*loss.terms.values(), loss.total.detach()])).unbind()
        self.log_dict({f"train/{name}": value for name, value in zip(loss.terms, terms, strict=True)})
        self.log("train/loss", total, prog_bar=True)

    def _compute(self, batch: Any) -> tuple[Trace, SuiteOutput, LossOutput]:
        trace = self.trace(batch)
        with torch.autocast(self.device.type, enabled=False):  # mixed precision is for the language model
            out = self.suite(trace, mode=self.mode, aux=self.objective.aux)
            return trace, out, self.objective(out, trace, self.suite.lm.paths)

    @torch.no_grad()
    def at_inference(self, batch: Any) -> tuple[Trace, SuiteOutput, LossOutput]:
        """The same at the thresholds of inference; nothing is learned on the way."""
        with self.suite.inference():
            return self._compute(batch)

    def trace(self, batch: Any) -> Trace:
        """The clean run that this training compares with, in the precision of the trainer, wherever it is asked for."""
        with self.trainer.precision_plugin.forward_context():
            return batch.trace(self.suite.lm, patterns=self.mode in ("dense", "pruned"))

    def parts(self) -> dict[str, torch.nn.Module]:
        return {str(site): self.suite[site] for site in self.suite.sites}

    def on_the_way(self, batch: Any) -> Iterator[tuple[str, torch.Tensor]]:
        trace, out, loss = self._compute(batch)
        yield from trace.parts()
        for site, reconstruction in out.reconstructions.items():
            yield f"the reconstruction at {site}", reconstruction
        for name, value in loss.terms.items():
            yield f"the term {name} of the loss", value

    def on_after_backward(self) -> None:
        self.computed = None

    def _count_firing(self, out: SuiteOutput) -> None:
        """Advance the clocks of dead features, over the tokens of all devices."""
        n_live = self.trainer.strategy.reduce(out.live.sum(), reduce_op="sum")
        learning = self.learning(self.global_step)
        for site, code in out.codes.items():
            fired = self.trainer.strategy.reduce(code.fired().to(torch.int32), reduce_op="sum") > 0
            if site in learning:
                self.suite[site].count_firing(fired, int(n_live))

    def learning(self, step: int) -> list[Site]:
        """The sites that have begun to learn."""
        return [site for number, site in enumerate(self.suite.sites) if step >= self.config.begins(number)]

    def _log_dead(self) -> None:
        auxk, every = self.suite.auxk, self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set at run time
        if auxk is not None and (self.global_step + 1) % every == 0:
            dead = [self.suite[site].tokens_since_fired >= auxk.dead_after for site in self.suite.sites]
            self.log("train/dead", torch.cat(dead).float().mean())

    def configure_optimizers(self) -> Any:
        config = self.config
        self.learner = create(config.optimizer, self._groups(config.optimizer.lr_factor))
        optimizer = self.learner.optimizer
        factor = partial(
            trapezoid,
            steps=config.steps,
            warmup=config.warmup,
            decay=config.decay,
            shape=config.decay_shape,
            to=config.decay_to,
        )
        factors: list[Callable[[int], float]] = [
            partial(factor, start=group["start"]) for group in optimizer.param_groups
        ]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factors), "interval": "step"}}

    def _groups(self, lr_factor: float) -> list[Group]:
        """The parameters of the sites, those of one rate and start together."""
        groups: dict[tuple[float, int], Group] = {}
        d_model = self.suite.lm.paths.d_model
        for number, site in enumerate(self.suite.sites):
            rate = self.config.rate(str(site), d_model=d_model, n_features=self.suite[site].n_features)
            rate = of_the_first(rate)  # rounding must not make two processes differ
            for parameter, factor in self.suite[site].learned():
                alike = rate * lr_factor * factor, self.config.begins(number)
                groups.setdefault(alike, Group([], *alike)).parameters.append(parameter)
        return list(groups.values())

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        learning = self.learning(self.global_step)
        for site in self.suite.sites:
            if site not in learning:
                self.suite[site].zero_grad()
            elif self.config.unit_norm:
                self.suite[site].decoder.project_gradient()

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        if self.clip is not None:
            for site in self.suite.sites:
                torch.nn.utils.clip_grad_norm_(self.suite[site].parameters(), self.clip)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        learning = self.learning(self.global_step)
        super().optimizer_step(*args, **kwargs)
        if self.config.unit_norm:
            for site in learning:
                decoder = self.suite[site].decoder
                self.learner.retract(decoder, decoder.normalise)

    def evaluated(self) -> AbstractContextManager[None]:
        """Inside the block the suite has the weights that would be stored if training ended here."""
        return self.learner.evaluated()

    def on_fit_end(self) -> None:
        """Also where a fit resumes from its last step."""
        self.learner.finish()
