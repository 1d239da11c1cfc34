"""Signum (Bernstein et al. 2018, "signSGD", algorithm 2).

m <- momentum m + (1 - momentum) g
w <- w - lr sign(m)
"""

from collections.abc import Callable
from typing import Any

import torch

from scae.config import SignumOptimizer
from scae.training.optimizers.learner import Group, Learner, loss_of


class Signum(torch.optim.Optimizer):
    def __init__(self, groups: list[dict], *, momentum: float) -> None:
        super().__init__(groups, {"momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = loss_of(closure)
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["mean"] = torch.zeros_like(weight)
                mean = state["mean"].lerp_(weight.grad, 1 - group["momentum"])
                weight.add_(mean.sign(), alpha=-group["lr"])
        return loss


def build(config: SignumOptimizer, groups: list[Group]) -> Learner:
    return Learner(Signum([group.all for group in groups], momentum=config.momentum))
