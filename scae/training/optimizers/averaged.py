"""An optimiser that steps along something made of a gradient and its running mean: Signum, and Muon of matrices.

m <- momentum m + (1 - momentum) g
w <- w - lr along(g, m)
"""

from collections.abc import Callable
from typing import Any

import torch

from scae.core.typing import Tensor
from scae.training.optimizers.learner import loss_of

Along = Callable[[Tensor, Tensor, float], Tensor]
"""(gradient, mean, momentum) -> the step of one weight at a rate of one."""


class Averaged(torch.optim.Optimizer):
    def __init__(self, groups: list[dict], along: Along, *, momentum: float) -> None:
        self._along = along
        super().__init__(groups, {"momentum": momentum})

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
                weight.add_(self._along(weight.grad, mean, momentum), alpha=-group["lr"])
        return loss
