"""What pretraining and finetuning share: train a suite, then store it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning

from scae.artifacts import Artifact, is_first_process
from scae.config import Finetune, Pretrain
from scae.data import Steps, TokenWindows, WindowModule, kept_aside
from scae.experiment.workshop import Workshop
from scae.objectives import Objective
from scae.suite import Mode, Suite
from scae.suite.files import save
from scae.training import Place, Snapshots, SuiteTraining, Validate, WorstTokens, firing_facts, fit

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Text:
    """data: the batches that a stage draws; aside: the windows that it is validated on, None where it is not."""

    data: Steps
    aside: TokenWindows | None


def text_of(workshop: Workshop, training: Pretrain | Finetune, *, section: str, seed: int) -> Text:
    """The training text, without what validation keeps of it for itself; of pretraining, perhaps from a store."""
    if section == "pretrain" and workshop.plan.activations is not None:
        return Text(workshop.stored(), None)
    windows, aside = workshop.windows[0], None
    if training.validation.every is not None:
        tokens, size = training.validation.tokens, training.batch_size
        windows, aside = kept_aside(windows, tokens=tokens, batch_size=size, key=f"{section}.validation.tokens")
        message = "%s: validation every %d steps on %d windows of the training text that no step draws"
        log.info(message, section, training.validation.every, len(aside))
    steps = training.steps * workshop.config.trainer.accumulate
    return Text(WindowModule(train=windows, batch_size=training.batch_size, steps=steps, seed=seed), aside)


def train(
    workshop: Workshop,
    suite: Suite,
    objective: Objective,
    *,
    mode: Mode,
    training: Pretrain | Finetune,
    text: Text,
    place: Place,
    artifact: Artifact,
    callbacks: Sequence[lightning.Callback] = (),
) -> dict[str, Any]:
    """artifact: what a checkpoint of this training belongs to. Returns the facts of the training."""
    trainer = workshop.config.trainer
    validate = None
    if text.aside is not None:
        size = training.batch_size
        validate = Validate(place.stage, suite, training.validation, text.aside, batch_size=size)
    steps = fit(
        SuiteTraining(suite, objective, training, mode=mode, clip=trainer.clip, identity={"artifact": artifact.name}),
        text.data,
        steps=training.steps,
        tokens_per_step=_tokens_per_step(workshop, training),
        trainer=trainer,
        logger=workshop.config.logger,
        place=place,
        seed=workshop.config.seed,
        callbacks=[
            WorstTokens(place.stage, trainer.worst_share_warning),
            *callbacks,
            *_snapshots(workshop, suite, place),
        ],
        validate=validate,
    )
    facts: dict[str, Any] = {"tokens": steps * _tokens_per_step(workshop, training)}
    trained = steps  # to what the suite is that the stage ends with
    if validate is not None:
        validate.finish()
        facts["validation"] = validate.facts() | {"steps": steps}
        trained = validate.kept_at or steps
    workshop.lm.to(workshop.device)
    suite.to(workshop.device)
    live_tokens = text.data.live_tokens(trained * trainer.accumulate)
    facts["statistics"] = firing_facts(suite, place.section, live_tokens=live_tokens)
    return facts


def store(suite: Suite, folder: Path) -> None:
    """Write the suite."""
    if is_first_process():
        save(suite, folder)


def _snapshots(workshop: Workshop, suite: Suite, place: Place) -> list[lightning.Callback]:
    trainer = workshop.config.trainer
    if trainer.checkpoint_steps is None or trainer.keep_checkpoints == 0:
        return []
    keep = None if trainer.keep_checkpoints == "all" else trainer.keep_checkpoints
    return [Snapshots(suite, place.folder, every=trainer.checkpoint_steps, keep=keep)]


def _tokens_per_step(workshop: Workshop, training: Pretrain | Finetune) -> int:
    return training.batch_size * workshop.config.data.context * workshop.config.trainer.accumulate
