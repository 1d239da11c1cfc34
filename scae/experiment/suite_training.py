"""What pretraining and finetuning share: train a suite, then store it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning

from scae.artifacts import Artifact, is_first_process
from scae.config import Training
from scae.data import Steps
from scae.experiment.workshop import Workshop
from scae.objectives import Objective
from scae.suite import Mode, Suite
from scae.suite.files import save
from scae.training import Place, SuiteTraining, WorstTokens, fit


def train(
    workshop: Workshop,
    suite: Suite,
    objective: Objective,
    *,
    mode: Mode,
    training: Training,
    data: Steps,
    place: Place,
    artifact: Artifact,
    callbacks: Sequence[lightning.Callback] = (),
) -> None:
    """artifact: what a checkpoint of this training belongs to."""
    trainer = workshop.config.trainer
    fit(
        SuiteTraining(suite, objective, training, mode=mode, clip=trainer.clip, identity={"artifact": artifact.name}),
        data,
        steps=training.steps,
        tokens_per_step=_tokens_per_step(workshop, training),
        trainer=trainer,
        logger=workshop.config.logger,
        place=place,
        seed=workshop.config.seed,
        callbacks=[WorstTokens(place.stage, trainer.worst_share_warning), *callbacks],
    )
    workshop.lm.to(workshop.device)
    suite.to(workshop.device)


def store(workshop: Workshop, suite: Suite, training: Training, folder: Path) -> dict[str, Any]:
    """Write the suite; returns the facts of its artifact."""
    if is_first_process():
        save(suite, folder)
    return {"tokens": training.steps * _tokens_per_step(workshop, training)}


def _tokens_per_step(workshop: Workshop, training: Training) -> int:
    return training.batch_size * workshop.config.data.context * workshop.config.trainer.accumulate
