"""Train every dictionary on its own module."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

from scae.artifacts import is_first_process
from scae.config import TinyModel
from scae.data import WindowModule
from scae.evaluation.unigram import warn_if_no_better
from scae.experiment.plan import describe_loss
from scae.experiment.suite_training import store, train
from scae.experiment.workshop import Workshop
from scae.objectives import Objective
from scae.suite import Mode, Suite, choose_sites
from scae.training import bound_from_data, start_from_data

log = logging.getLogger(__name__)
FIRST_LOOK = 4096  # training tokens on which a model from elsewhere is compared with their frequencies
FIRST_BATCHES = 8  # micro-steps that a new suite takes its biases and scales from


def make(workshop: Workshop, folder: Path) -> dict[str, Any]:
    config, lm = workshop.config, workshop.lm
    if not isinstance(config.model, TinyModel) and is_first_process():
        warn_if_no_better(lm, workshop.windows[0], partial(workshop.sample, FIRST_LOOK))
    sites = choose_sites(lm.paths, config.sites.layers, list(config.sites.kinds))
    suite = Suite.from_config(config.sae, sites, lm).to(workshop.device)
    suite.chunk_mb = config.trainer.chunk_mb
    objective = Objective.from_config(config.pretrain.loss, config.sae)
    mode: Mode = "spliced" if objective.reads_stream else "plain"
    features = ", ".join(sorted({str(size) for size in suite.layout.sizes}))
    message = "pretrain: %d sites of %s features, %s, %s pass"
    log.info(message, len(sites), features, describe_loss(config.pretrain.loss), mode)
    data = WindowModule(
        train=workshop.windows[0],
        batch_size=config.pretrain.batch_size,
        steps=config.pretrain.steps * config.trainer.accumulate,
        seed=config.seed,
    )
    first = [data.batch(step, rank=0, world_size=1) for step in range(min(FIRST_BATCHES, data.steps))]
    start_from_data(suite, first, centred=config.sae.centred)
    place = workshop.place("pretrain", folder, section="pretrain")
    artifact = workshop.plan.pretrain
    train(workshop, suite, objective, mode=mode, training=config.pretrain, data=data, place=place, artifact=artifact)
    bound = config.sae.bound
    if bound.margin is not None and is_first_process():
        bound_from_data(suite, workshop.sample(bound.tokens), margin=bound.margin)
    return store(workshop, suite, config.pretrain, folder)
