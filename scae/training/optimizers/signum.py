"""Signum (Bernstein et al. 2018, "signSGD", algorithm 2): the signs of the running mean m of the gradient."""

from scae.config import SignumOptimizer
from scae.core.typing import Tensor
from scae.training.optimizers.averaged import Averaged
from scae.training.optimizers.learner import Group, Learner


def signs(gradient: Tensor, mean: Tensor, momentum: float) -> Tensor:
    return mean.sign()


def build(config: SignumOptimizer, groups: list[Group]) -> Learner:
    return Learner(Averaged([group.all for group in groups], signs, momentum=config.momentum))
