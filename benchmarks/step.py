"""What is measured: one training step, or one computation, with what it leaves behind."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

LR = 1e-4


@dataclass(frozen=True)
class Step:
    """Loss, backward, optimiser. `settle` leaves the process as it is between two steps: with the optimiser's state,
    without gradients."""

    loss: Callable[[], torch.Tensor]
    optimizer: torch.optim.Optimizer
    before_update: Callable[[], None] = lambda: None
    after_update: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        self.before_update()
        self.optimizer.step()
        self.after_update()
        return float(loss.detach())

    def settle(self) -> None:
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()  # Adam makes its state, and moves nothing along a gradient of zero
        self.rest()

    def rest(self) -> None:
        self.optimizer.zero_grad()


@dataclass(frozen=True)
class Call:
    """A computation that keeps nothing."""

    run: Callable[[], torch.Tensor]

    def __call__(self) -> None:
        self.run()

    def settle(self) -> None: ...

    def rest(self) -> None: ...
