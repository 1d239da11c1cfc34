"""Train the suite of an arm in the pass that it will be used in."""

import logging
from pathlib import Path
from statistics import fmean
from typing import Any

from lightning import Callback

from scae.artifacts.checkpoints import CHECKPOINT
from scae.config import Config, Finetune
from scae.data import count_aside
from scae.experiment.plan import Finetuned
from scae.experiment.suite_training import store, text_of, train
from scae.experiment.workshop import Workshop
from scae.objectives import Objective
from scae.selection import describe
from scae.suite import Mode, Suite
from scae.training import Regrowth, Revival, left_to_learn, moved_share, refit

log = logging.getLogger(__name__)


def make(workshop: Workshop, folder: Path, one: Finetuned, label: str) -> dict[str, Any]:
    config, plan = workshop.config, workshop.plan
    suite = workshop.suite(plan.pretrain.folder, one.selection)
    objective = Objective.from_config(config.loss, config.sae)
    log.info("%s: %s, %s pass", label, objective, one.mode)
    # other batches than those that pretraining began with
    text = text_of(workshop, config.finetune, section="finetune", seed=config.seed + 1)
    if text.aside is not None:
        _say_what_pretraining_saw(config, len(text.aside))
    callbacks: list[Callback] = []
    if config.finetune.revive.every is not None:
        callbacks.append(Revival(suite, config.finetune.revive, steps=config.finetune.steps))
    if one.regrow is not None:
        steps, chunk_mb = config.finetune.steps, config.connectivity.chunk_mb
        callbacks.append(Regrowth(suite, objective, one.regrow, steps=steps, chunk_mb=chunk_mb))
    training = config.finetune
    if training.settled.fvu is not None:  # before rows are fitted: a run that resumes fits none, at the same rates
        training = _slowed(workshop, suite, one.mode, label, training, fvu=training.settled.fvu)
    if training.refit.tokens is not None and not (folder / CHECKPOINT).exists():
        _refit(workshop, suite, one.mode, label, tokens=training.refit.tokens)
    selected = suite.connections
    facts = train(
        workshop,
        suite,
        objective,
        mode=one.mode,
        training=training,
        text=text,
        place=workshop.place(label, folder, section="finetune"),
        artifact=plan.finetune(one),
        callbacks=callbacks,
    )
    store(suite, folder)
    if one.regrow is not None:
        edges = suite.connections
        moved = moved_share(selected, edges)
        log.info("%s: %.1f %% of the connections are not among those selected", label, 100 * moved)
        facts["statistics"] |= describe(edges) | {"connectivity/regrown": moved}
    return facts


def _slowed(workshop: Workshop, suite: Suite, mode: Mode, label: str, training: Finetune, *, fvu: float) -> Finetune:
    (trace,) = workshop.sample(training.settled.tokens, at_once=True)
    factors = left_to_learn(suite, trace, mode, fvu=fvu)
    if factors:
        slowest = min(factors, key=lambda site: factors[site])
        message = "%s: %d of %d sites have an FVU below %g already and learn slower, %s at %.2g of the rate"
        log.info(message, label, len(factors), len(suite.sites), fvu, slowest, factors[slowest])
    own = training.lr_sites or {}
    rates = {str(site): own.get(str(site), 1.0) * factors.get(site, 1.0) for site in suite.sites}
    return training.model_copy(update={"lr_sites": rates})


def _refit(workshop: Workshop, suite: Suite, mode: Mode, label: str, *, tokens: int) -> None:
    (trace,) = workshop.sample(tokens, at_once=True)
    found = refit(suite, trace, mode, workshop.config.finetune.refit, seed=workshop.config.seed)
    if found:
        message = "%s: encoders are fitted on %d tokens; %.3f of what they say in the plain pass was missed, now %.3f"
        before, after = (fmean(getattr(one, name) for one in found.values()) for name in ("before", "after"))
        log.info(message, label, trace.tokens.numel(), before, after)


def _say_what_pretraining_saw(config: Config, aside: int) -> None:
    """aside: windows that finetuning is validated on."""
    own, size = config.pretrain.validation, config.pretrain.batch_size
    kept = 0
    if own.every is not None:
        kept = count_aside(tokens=own.tokens, context=config.data.context, batch_size=size)
    if kept < aside:
        message = "finetune: it does not draw what it is validated on, pretraining did%s; see pretrain.validation"
        log.info(message, " in part" if kept else "")
