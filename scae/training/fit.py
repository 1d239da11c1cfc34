"""One fit: a Lightning trainer that checkpoints into a folder and resumes from what it finds there."""

import importlib.util
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from scae.artifacts.checkpoints import CHECKPOINT
from scae.config import ConfigError, Logger, TrainerConfig
from scae.core.stopping import Stopped, held_signals, signal_asked, take_signals_back
from scae.training.devices import accelerator
from scae.training.finite import Finite
from scae.training.history import Csv, History, TensorBoard, Wandb, Writer
from scae.training.progress import Progress
from scae.training.steps import ends_step
from scae.training.validation import Validate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where a fit belongs: its stage or twin, the folder of its checkpoint and logs, how runs beside it are grouped,
    and the section of the configuration that it is trained with."""

    stage: str
    folder: Path
    group: str
    section: str


class WholeSteps(ModelCheckpoint):
    """Saves between optimiser steps only: a checkpoint holds no gradients, so one taken while they accumulate would
    resume another run than the one that was interrupted. Saves and raises Stopped there when a process of the fit was
    asked to stop."""

    def __init__(self, place: Place, minutes: float, steps: int | None) -> None:
        """minutes: between two checkpoints; steps: between two of those that are written whatever the time."""
        super().__init__(
            dirpath=place.folder,
            filename=CHECKPOINT.removesuffix(".ckpt"),
            train_time_interval=timedelta(minutes=minutes),
            enable_version_counter=False,
        )
        self.place, self.steps = place, steps

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        take_signals_back()  # Lightning's handler would end the fit without a checkpoint, in silence
        super().on_train_start(trainer, pl_module)

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        batch_idx = kwargs["batch_idx"] if "batch_idx" in kwargs else args[3]
        if not ends_step(trainer, batch_idx):
            return
        signum = signal_asked()
        if trainer.world_size > 1:  # all processes stop at the same step
            own = torch.tensor(signum, device=trainer.strategy.root_device)
            signum = int(trainer.strategy.reduce(own, reduce_op="max"))
        if signum:
            trainer.save_checkpoint(self.place.folder / CHECKPOINT)
            raise Stopped(signum, f" in {self.place.stage} after step {trainer.global_step} of {trainer.max_steps}")
        if self.steps is not None and trainer.global_step % self.steps == 0:
            trainer.save_checkpoint(self.place.folder / CHECKPOINT)
            return
        super().on_train_batch_end(trainer, *args, **kwargs)


def fit(
    module: lightning.LightningModule,
    data: lightning.LightningDataModule,
    *,
    steps: int,
    tokens_per_step: int,
    trainer: TrainerConfig,
    logger: Logger,
    place: Place,
    seed: int,
    callbacks: Sequence[lightning.Callback] = (),
    validate: Validate | None = None,
) -> int:
    """Train for `steps` optimiser steps, or for what is left of them after the checkpoint in the folder; returns how
    many they were in all, fewer where validation has ended the training.

    Raises Stopped, after a checkpoint, where the command was asked to stop.
    """
    lightning.seed_everything(seed, workers=True, verbose=False)
    checkpoint = place.folder / CHECKPOINT
    if checkpoint.exists():
        log.info("%s: resuming from %s", place.stage, checkpoint)
    history = History(
        logger.every, _writer(logger, place), also=lambda step: validate is not None and validate.falls_on(step, steps)
    )
    warnings.filterwarnings("ignore", message=".*exists and is not empty")  # the folder is ours, also when resuming
    warnings.filterwarnings("ignore", message=".*LeafSpec")  # Lightning 2.6 with torch 2.13
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step")
    with held_signals():
        running = lightning.Trainer(
            accelerator=accelerator(trainer.accelerator),
            devices=trainer.devices,
            num_nodes=trainer.num_nodes,
            strategy=trainer.strategy,
            precision=trainer.precision,
            accumulate_grad_batches=trainer.accumulate,
            max_steps=steps,
            max_epochs=1,
            callbacks=[
                *callbacks,  # first: a checkpoint holds what they have done
                *([validate] if validate is not None else []),
                history,
                WholeSteps(place, trainer.checkpoint_minutes, trainer.checkpoint_steps),
                Progress(place.stage, steps, tokens_per_step, shown=trainer.progress),
                Finite(place.stage, checkpoint, section=place.section),
            ],
            logger=False,
            log_every_n_steps=logger.every,
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            gradient_clip_val=1.0,  # only so that Lightning calls the module's own clipping
            detect_anomaly=False,
        )
        running.fit(module, data, ckpt_path=str(checkpoint) if checkpoint.exists() else None, weights_only=True)
    return running.global_step


def _writer(logger: Logger, place: Place) -> Callable[[], Writer]:
    """How to open what the rows go to."""
    folder = place.folder / "logs"
    if logger.kind == "csv":
        return partial(Csv, folder)
    if logger.kind == "tensorboard":
        if importlib.util.find_spec("tensorboard") is None:
            raise ConfigError("logger=tensorboard: tensorboard is not installed: pip install -e '.[tensorboard]'")
        return partial(TensorBoard, folder)
    assert logger.project is not None
    return partial(
        Wandb,
        folder,
        project=logger.project,
        name=f"{place.stage} {place.group}",
        group=place.group,
        offline=logger.mode == "offline",
    )
