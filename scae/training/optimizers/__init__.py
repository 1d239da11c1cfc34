"""What makes a step of a gradient: a kind of optimiser is a file here, and a class in `scae/config/optimizer.py`."""

from collections.abc import Callable
from typing import Any

from scae.config import AnyOptimizer
from scae.training.optimizers import adam, muon, schedulefree, signum
from scae.training.optimizers.learner import Group, Learner

KINDS: dict[str, Callable[[Any, list[Group]], Learner]] = {
    "adam": adam.build,
    "muon": muon.build,
    "signum": signum.build,
    "schedulefree": schedulefree.build,
}


def create(config: AnyOptimizer, groups: list[Group]) -> Learner:
    return KINDS[config.kind](config, groups)


__all__ = ["KINDS", "Group", "Learner", "create"]
