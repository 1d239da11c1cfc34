"""Validation: the objective on text that training does not draw, at thresholds of inference, and what follows from it.

Over the batches b of that text, in the pass that is trained, with y what the module of a site writes, yhat what its
dictionary makes of it:

    valid/<term>, valid/loss    the mean over batches of what the objective makes of each; dead features are revived
                                in training only, so there is nothing of `auxk` in it
    valid/fvu/<site>            sum ||y - yhat||^2 / sum ||y - mean y||^2, sums over all live tokens, and
    valid/fvu_mean, fvu_max     its mean and its largest over sites
    valid/l0                    activations > 0 a token, the mean over sites

One of them may steer: the suite of the best validation is kept, and training ends where `patience` validations in a
row have not improved on the best before them by `min_delta`. A validation draws nothing at random and moves no weight.
"""

import logging
import math
from dataclasses import asdict, dataclass
from typing import Any

import lightning
import torch

from scae.config import Validation
from scae.connections import Connections, Inputs
from scae.core.failures import NonFiniteError
from scae.core.processes import averaged, summed
from scae.core.typing import Float, Tensor
from scae.data import Batch, TokenWindows
from scae.lm import Trace
from scae.objectives import LossOutput
from scae.sites import Site
from scae.suite import Suite, SuiteOutput
from scae.training.steps import ends_step

log = logging.getLogger(__name__)


@dataclass
class Course:
    """How the validations of a fit went; plain values, part of every checkpoint.

    best, at: the smallest value of the metric, and after how many steps; level: what patience compares with, the last
    value that was an improvement on the level before; waited: validations since; ended: the step of an early end
    """

    best: float = math.inf
    at: int = 0
    level: float = math.inf
    waited: int = 0
    ended: int | None = None


class Validate(lightning.Callback):
    """Holds the validations of a fit. What is kept of the best one lies in every checkpoint, weights and connections,
    so a stage goes on from any of its checkpoints as if it had never been interrupted."""

    def __init__(self, stage: str, suite: Suite, config: Validation, windows: TokenWindows, *, batch_size: int) -> None:
        """windows: whole batches of `batch_size`, counted over all devices."""
        assert config.every is not None
        self.stage, self.suite, self.config, self.every = stage, suite, config, config.every
        self.windows, self.batch_size = windows, batch_size
        self.course = Course()
        self._kept: dict[str, Any] | None = None

    def falls_on(self, step: int, last: int) -> bool:
        """Whether there is a validation after this step of a fit."""
        return step % self.every == 0 or step == last

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.course.ended is not None:  # the checkpoint was written after the end, and before the stage was done
            trainer.should_stop = True

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not ends_step(trainer, batch_idx) or not self.falls_on(trainer.global_step, trainer.max_steps):
            return
        with pl_module.evaluated():
            found = self.measure(pl_module, rank=trainer.global_rank, world_size=trainer.world_size)
            pl_module.log_dict({f"valid/{name}": value for name, value in found.items()})
            one = trainer.strategy.broadcast(found[self.config.metric])  # one decision for all processes
            self._steer(trainer, one)

    def measure(self, module: Any, *, rank: int, world_size: int) -> dict[str, float]:
        """The numbers of one validation, the same on every process.

        module: what is trained, see `SuiteTraining.at_inference`.
        """
        share = self.batch_size // world_size
        losses, sums = [], {site: _Sums() for site in self.suite.sites}
        for first in range(rank * share, len(self.windows), self.batch_size):
            batch: Batch = self.windows.batch(range(first, first + share)).to(self.suite.lm.device)
            trace, out, loss = module.at_inference(batch)
            losses.append(loss)
            for site, of_site in sums.items():
                of_site.add(site, out, trace)
        by_site = {site: of_site.result() for site, of_site in sums.items()}
        fvus = {site: fvu for site, (fvu, _) in by_site.items()}
        return _means(losses) | {
            "fvu_mean": sum(fvus.values()) / len(fvus),
            "fvu_max": max(fvus.values()),
            "l0": sum(l0 for _, l0 in by_site.values()) / len(by_site),
            **{f"fvu/{site}": fvu for site, fvu in fvus.items()},
        }

    def _steer(self, trainer: lightning.Trainer, value: float) -> None:
        course, config, step = self.course, self.config, trainer.global_step
        steers = config.keep == "best" or config.patience is not None
        if steers and not math.isfinite(value):
            raise NonFiniteError(f"{self.stage} stopped after step {step}; valid/{config.metric} is {value}")
        if value < course.best:
            course.best, course.at = value, step
            if config.keep == "best":
                self._kept = _copy_of(self.suite)
        if value < course.level - config.min_delta:
            course.level, course.waited = value, 0
        else:
            course.waited += 1
        if config.patience is not None and course.waited >= config.patience and step < trainer.max_steps:
            course.ended = step
            trainer.should_stop = True
            log.info(
                "%s: ends early, after step %d of %d: no valid/%s below %.6g in %d validations; the best was %.6g, "
                "after step %d",
                *(self.stage, step, trainer.max_steps, config.metric, course.level - config.min_delta),
                *(course.waited, course.best, course.at),
            )

    def finish(self) -> None:
        """After the fit: put the suite of the best validation in the place of the last one, where that was asked."""
        if self._kept is None:
            return
        log.info("%s: keeps the suite after step %d, the best: valid/%s %.6g", *self._told())
        self.suite.load_state_dict(self._kept["suite"])
        if (tensors := self._kept["connections"]) is not None:
            inputs = {Site.parse(name): Inputs(*own) for name, own in tensors.items()}
            self.suite.connect(Connections(self.suite.layout, inputs))

    @property
    def kept_at(self) -> int | None:
        """The step whose suite is kept; None: the last."""
        return None if self._kept is None else self.course.at

    def facts(self) -> dict[str, float | int]:
        """Of a finished fit, for the notes of its artifact."""
        return {"best_step": self.course.at, f"best_{self.config.metric}": self.course.best}

    def state_dict(self) -> dict[str, Any]:
        return {"course": asdict(self.course), "kept": self._kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.course, self._kept = Course(**state_dict["course"]), state_dict["kept"]

    def _told(self) -> tuple[str, int, str, float]:
        return self.stage, self.course.at, self.config.metric, self.course.best


class _Sums:
    """What the FVU and the L0 of a site are made of, this process' share, in float64."""

    def __init__(self) -> None:
        self.vector: Tensor | None = None

    def add(self, site: Site, out: SuiteOutput, trace: Trace) -> None:
        y = trace.outputs[site.module][trace.live].double()
        error = (y - out.outputs[site.module][trace.live].double()).square().sum()
        fired = (out.codes[site].value > 0).sum().double()
        numbers = torch.stack([y.new_tensor(float(len(y))), error, y.square().sum(), fired])
        vector = torch.cat([numbers, y.sum(0)])
        self.vector = vector if self.vector is None else self.vector + vector

    def result(self) -> tuple[float, float]:
        """FVU and L0 over the text of all processes."""
        assert self.vector is not None
        (n, error, square, fired), total = summed(self.vector).split([4, len(self.vector) - 4])
        variation = square - total.square().sum() / n
        return float(error / variation), float(fired / n)


def _means(losses: list[LossOutput]) -> dict[str, float]:
    """Each process divides its own sums by those of all (`scae.core.processes`): their mean is the batch's loss."""
    rows: Float[Tensor, "batch term"] = torch.stack(
        [torch.stack([*loss.terms.values(), loss.total]).double() for loss in losses]
    )
    names = [*losses[0].terms, "loss"]
    return {name: value for name, value in zip(names, averaged(rows.mean(0)).tolist(), strict=True) if name != "auxk"}


def _copy_of(suite: Suite) -> dict[str, Any]:
    """Its weights and, unless it has all of them, its connections, which may move while it is trained."""
    edges = suite.connections
    sites = () if edges.is_complete else suite.layout.sites
    return {
        "suite": {name: value.detach().cpu().clone() for name, value in suite.state_dict().items()},
        "connections": {str(site): [edges[site].crow, edges[site].up] for site in sites} or None,
    }
