"""An optimiser, and the weights that it means: most mean those that the gradient is taken at."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn


class Group(NamedTuple):
    """Parameters that learn alike. start: the step at which they begin to."""

    parameters: list[nn.Parameter]
    lr: float
    start: int

    def of(self, parameters: list[nn.Parameter]) -> dict:
        """Some of them, as torch wants a group."""
        return {"params": parameters, "lr": self.lr, "start": self.start}

    @property
    def all(self) -> dict:
        return self.of(self.parameters)


def loss_of(closure: Callable[[], Any] | None) -> Any:
    """What a step of an optimiser evaluates first, with gradients; None where nothing is to be evaluated."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


class Learner:
    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def retract(self, part: nn.Module, retraction: Callable[[], None]) -> None:
        """Do to the weights of `part` what `retraction` does in place, wherever the optimiser has them."""
        retraction()

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """Inside the block the suite has the weights that would be stored; afterwards its own again, to the bit."""
        yield

    def finish(self) -> None:
        """Leave the suite with the weights that are stored."""
