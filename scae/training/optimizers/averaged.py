"""What the optimisers have in common that step along something made of a gradient and its running mean.

m <- momentum m + (1 - momentum) g
w <- w - lr along(g, m)
"""

from collections.abc import Callable
from typing import Any

import torch

from scae.core.typing import Tensor
from scae.training.optimizers.learner import loss_of


class Averaged(torch.optim.Optimizer):
    def __init__(self, groups: list[dict], *, momentum: float) -> None:
        super().__init__(groups, {"momentum": momentum})

    @staticmethod
    def along(gradient: Tensor, mean: Tensor, momentum: float) -> Tensor:
        """The step at a rate of one, of one weight."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = loss_of(closure)
        for group in self.param_groups:
            momentum = group["momentum"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["mean"] = torch.zeros_like(weight)
                mean = state["mean"].lerp_(weight.grad, 1 - momentum)
                weight.add_(self.along(weight.grad, mean, momentum), alpha=-group["lr"])
        return loss
