"""One fit: a Lightning trainer that checkpoints into a folder and resumes from what it finds there."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from scae.checkpoints import CHECKPOINT
from scae.config import ConfigError, TrainerConfig
from scae.config import Logger as LoggerConfig
from scae.training.devices import accelerator
from scae.training.finite import Finite
from scae.training.progress import Progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where a fit belongs: its stage, the folder of its checkpoint and logs, and how runs beside it are grouped."""

    stage: str
    folder: Path
    group: str


class WholeSteps(ModelCheckpoint):
    """Saves between optimiser steps only: a checkpoint holds no gradients, so one taken while they accumulate would
    resume another run than the one that was interrupted."""

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        batch_idx = kwargs["batch_idx"] if "batch_idx" in kwargs else args[3]
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            super().on_train_batch_end(trainer, *args, **kwargs)


def fit(
    module: lightning.LightningModule,
    data: lightning.LightningDataModule,
    *,
    steps: int,
    tokens_per_step: int,
    trainer: TrainerConfig,
    logger: LoggerConfig,
    place: Place,
    seed: int,
    callbacks: Sequence[lightning.Callback] = (),
) -> None:
    """Train for `steps` optimiser steps, or for what is left of them after the checkpoint in the folder."""
    lightning.seed_everything(seed, workers=True, verbose=False)
    checkpoint = place.folder / CHECKPOINT
    if checkpoint.exists():
        log.info("%s: resuming from %s", place.stage, checkpoint)
    loggers = _logger(logger, place)
    warnings.filterwarnings("ignore", message=".*exists and is not empty")  # the folder is ours, also when resuming
    warnings.filterwarnings("ignore", message=".*LeafSpec")  # Lightning 2.6 with torch 2.13
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step")
    try:
        lightning.Trainer(
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
                WholeSteps(
                    dirpath=place.folder,
                    filename=CHECKPOINT.removesuffix(".ckpt"),
                    train_time_interval=timedelta(minutes=trainer.checkpoint_minutes),
                    enable_version_counter=False,
                ),
                Progress(place.stage, steps, tokens_per_step, shown=trainer.progress),
                Finite(place.stage, checkpoint),
            ],
            logger=loggers,
            log_every_n_steps=logger.every,
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            gradient_clip_val=1.0,  # only so that Lightning calls the module's own clipping
            detect_anomaly=False,
        ).fit(module, data, ckpt_path=str(checkpoint) if checkpoint.exists() else None, weights_only=True)
    finally:
        if isinstance(loggers, WandbLogger):
            loggers.experiment.finish()  # or the next fit would write into this run


def _logger(config: LoggerConfig, place: Place) -> Logger:
    if config.kind == "csv":
        return CSVLogger(place.folder, name="", version="logs")
    if config.kind == "tensorboard":
        try:
            return TensorBoardLogger(place.folder, name="", version="logs")
        except ModuleNotFoundError as error:
            raise ConfigError(f"logger=tensorboard: {error}") from error
    return WandbLogger(
        project=config.project,
        name=f"{place.stage} {place.group}",
        group=place.group,
        save_dir=place.folder,
        offline=config.mode == "offline",
    )
