"""Schedule-free Adam (Defazio et al. 2024, "The Road Less Scheduled", algorithm 1; the package `schedulefree`).

y = beta1 x + (1 - beta1) z         the gradient g is taken here: these are the weights of the suite while it is trained
z <- z - lr g / (sqrt(vhat) + eps)
x <- x + c (z - x)                  c = lr_max^2 / sum of lr_max^2 so far: x is the mean of z, and what is stored

A schedule makes lr anyway, as for every kind: its warm-up is wanted here, its decay is not needed. Decoder rows of norm
1 are those of x and of z; between them y is a little shorter.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from scae.config import ScheduleFreeOptimizer
from scae.training.optimizers.learner import Group, Learner


class ScheduleFreeLearner(Learner):
    optimizer: Any  # the package's

    def __init__(self, optimizer: torch.optim.Optimizer, *, beta1: float) -> None:
        super().__init__(optimizer)
        self.beta1 = beta1
        self.optimizer.train()

    @torch.no_grad()
    def retract(self, part: nn.Module, retraction: Callable[[], None]) -> None:
        """The weights are y, so x comes from y and z, and y again from both."""
        pairs = [(y, z) for y in part.parameters() if (z := self.optimizer.state[y].get("z")) is not None]
        for y, z in pairs:
            y.lerp_(z, 1 - 1 / self.beta1)
        retraction()
        means = [y.clone() for y, _ in pairs]
        for y, z in pairs:
            y.copy_(z)
        retraction()
        for (y, z), mean in zip(pairs, means, strict=True):
            z.copy_(y)
            y.copy_(mean.lerp_(z, 1 - self.beta1))

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        ours = [weight.detach().clone() for weight in weights]
        self.optimizer.eval()
        try:
            yield
        finally:
            self.optimizer.train()
            with torch.no_grad():  # there and back again is rounded
                for weight, own in zip(weights, ours, strict=True):
                    weight.copy_(own)

    def finish(self) -> None:
        self.optimizer.eval()


def build(config: ScheduleFreeOptimizer, groups: list[Group]) -> Learner:
    from schedulefree import AdamWScheduleFree  # an optional package

    betas = (config.beta1, config.beta2)
    optimizer = AdamWScheduleFree([group.all for group in groups], betas=betas, eps=config.eps)
    return ScheduleFreeLearner(optimizer, beta1=config.beta1)
