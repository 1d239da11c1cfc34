"""Train the suite of an arm in the pass that it will be used in."""

import logging
from pathlib import Path
from typing import Any

from scae.data import WindowModule
from scae.experiment.plan import Finetuned
from scae.experiment.suite_training import store, train
from scae.experiment.workshop import Workshop
from scae.objectives import Objective
from scae.selection import describe
from scae.training import Regrowth, moved_share

log = logging.getLogger(__name__)


def make(workshop: Workshop, folder: Path, one: Finetuned, label: str) -> dict[str, Any]:
    config, plan = workshop.config, workshop.plan
    suite = workshop.suite(plan.pretrain.folder, one.selection)
    objective = Objective.from_config(config.loss, config.sae)
    log.info("%s: %s, %s pass", label, objective, one.mode)
    data = WindowModule(
        train=workshop.windows[0],
        batch_size=config.finetune.batch_size,
        steps=config.finetune.steps * config.trainer.accumulate,
        seed=config.seed + 1,  # other batches than those that pretraining began with
    )
    callbacks = []
    if one.regrow is not None:
        steps, chunk_mb = config.finetune.steps, config.connectivity.chunk_mb
        callbacks.append(Regrowth(suite, objective, one.regrow, steps=steps, chunk_mb=chunk_mb))
    selected = suite.connections
    train(
        workshop,
        suite,
        objective,
        mode=one.mode,
        training=config.finetune,
        data=data,
        place=workshop.place(label, folder, section="finetune"),
        artifact=plan.finetune(one),
        callbacks=callbacks,
    )
    facts = store(workshop, suite, config.finetune, folder)
    if one.regrow is not None:
        edges = suite.connections
        moved = moved_share(selected, edges)
        log.info("%s: %.1f %% of the connections are not among those selected", label, 100 * moved)
        facts["statistics"] = describe(edges) | {"connectivity/regrown": moved}
    return facts
