"""Train every dictionary on its own module."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

from scae.artifacts import is_first_process
from scae.config import TinyModel
from scae.evaluation.unigram import warn_if_no_better
from scae.experiment.suite_training import store, text_of, train
from scae.experiment.workshop import Workshop
from scae.interop.beginning import Beginning
from scae.objectives import Objective
from scae.sites import SINK, SOURCE
from scae.suite import Mode, Suite
from scae.training import bound_from_data, freeze, start_from_data

log = logging.getLogger(__name__)


def make(workshop: Workshop, folder: Path) -> dict[str, Any]:
    config, lm = workshop.config, workshop.lm
    if not isinstance(config.model, TinyModel) and is_first_process():
        warn_if_no_better(lm, workshop.windows[0], partial(workshop.sample, config.evaluation.first_look))
    sites = workshop.sites
    ends = [end for end, wanted in ((SOURCE, config.sites.embed), (SINK, config.sites.unembed)) if wanted]
    suite = Suite.from_config(config.sae, sites, lm, ends=ends).to(workshop.device)
    path = config.pretrain.init_from
    beginning = None if path is None else Beginning(path, suite)
    suite.chunk_mb = config.trainer.chunk_mb
    objective = Objective.from_config(config.pretrain.loss, config.sae)
    mode: Mode = "spliced" if objective.reads_stream else "plain"
    features = ", ".join(sorted({str(suite[site].n_features) for site in suite.sites}))
    message = "pretrain: %d sites of %s features, %s, %s pass"
    log.info(message, len(sites), features, objective, mode)
    text = text_of(workshop, config.pretrain, section="pretrain", seed=config.seed)
    start = config.pretrain.start
    first = [text.data.batch(step, rank=0, world_size=1) for step in range(min(start.batches, text.data.steps))]
    start_from_data(
        suite,
        first,
        centred=config.sae.centred,
        furthest=start.furthest,
        scaled=config.sae.normalise != "none",
        sites=None if beginning is None else beginning.to_measure,
    )
    if beginning is not None:
        beginning.begin(unit_norm=config.pretrain.unit_norm)
    freeze(suite, config.pretrain.freeze)
    place = workshop.place("pretrain", folder, section="pretrain")
    artifact = workshop.plan.pretrain
    training = config.pretrain
    facts = train(workshop, suite, objective, mode=mode, training=training, text=text, place=place, artifact=artifact)
    bound = config.sae.bound
    if bound.margin is not None and is_first_process():
        bound_from_data(suite, workshop.sample(bound.tokens), margin=bound.margin)
    store(suite, folder)
    return facts
