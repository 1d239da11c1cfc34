"""Compare every arm on held-out text."""

import logging
from pathlib import Path
from typing import Any

from scae.arms import RESULT
from scae.config import Evaluation
from scae.evaluation import Alone, Arm, Bypass, Observer, Pursuit, Unigram, evaluate, unigram
from scae.experiment.workshop import Workshop
from scae.suite import Suite, thresholds

log = logging.getLogger(__name__)


def make(workshop: Workshop, folder: Path) -> dict[str, Any]:
    arms = _arms(workshop)
    _learn_thresholds(workshop, arms)
    frequencies = unigram(workshop.windows[0], workshop.lm.paths.W_U.shape[1])
    also: list[Observer] = [Unigram(frequencies)]
    also += [Bypass(RESULT.key) if workshop.plan.prunes else Alone(arms[0].suite)]
    also += _pursuit(workshop.config.evaluation)
    metrics = evaluate(workshop.lm, arms, workshop.heldout, also)
    return {"metrics": metrics, "tokens": workshop.config.evaluation.tokens}


def _pursuit(evaluation: Evaluation) -> list[Observer]:
    if evaluation.pursuit is None:
        return []
    return [Pursuit("plain", method=evaluation.pursuit, steps=evaluation.pursuit_steps)]


def _arms(workshop: Workshop) -> list[Arm]:
    """Every arm with its suite; those that run it as pretraining has left it share one."""
    plan, arms = workshop.plan, []
    pretrained: Suite | None = None
    for arm in plan.arms:
        selection = plan.selection(arm)
        if arm.finetuned:
            suite = workshop.suite(plan.finetune(plan.finetuned(arm)).folder)
        elif selection is None and pretrained is not None and not thresholds.foreign(pretrained, arm.mode):
            suite = pretrained
        else:
            suite = workshop.suite(plan.pretrain.folder, selection)
            if selection is None and not thresholds.foreign(suite, arm.mode):
                pretrained = suite
        arms.append(Arm(arm.key, suite, arm.mode))
    return arms


def _learn_thresholds(workshop: Workshop, arms: list[Arm]) -> None:
    """Where an arm runs another pass than its suite's thresholds were learned in, learn them in its own."""
    foreign = [arm for arm in arms if thresholds.foreign(arm.suite, arm.mode)]
    if not foreign:
        return
    tokens = workshop.config.evaluation.tokens
    log.info(
        "evaluate: thresholds were learned in another pass than that of %s; set anew there, so that k activations "
        "a token fire on average, on %d tokens of the training text",
        ", ".join(arm.name for arm in foreign),
        tokens,
    )
    for arm in foreign:
        thresholds.learn(arm.suite, workshop.sample(tokens), arm.mode)
