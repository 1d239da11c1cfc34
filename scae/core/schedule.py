"""The learning rate over a stage: up, flat, down.

    factor(t) = min(1, rising, falling)
    rising    = (t - start + 1) / (warmup steps)                     0 before start
    falling   = to + (1 - to) shape(left)                            left = (steps - t) / (decay steps), at most 1

of which shape(1) = 1, and shape(0) = 0 but for rounding.
"""

import math
from collections.abc import Callable
from typing import Literal

SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda left: left,
    "cosine": lambda left: (1 - math.cos(math.pi * left)) / 2,
    "constant": lambda left: float(left >= 1),
}


def trapezoid(
    step: int,
    *,
    steps: int,
    warmup: float,
    decay: float,
    shape: Literal["linear", "cosine", "constant"] = "linear",
    to: float = 0.0,
    start: int = 0,
) -> float:
    """The factor on the learning rate at `step`. warmup, decay: shares of `steps`; shape, to: of the decay; start: the
    step before which nothing is learned."""
    rising = (step - start + 1) / (warmup * steps) if warmup else 1.0
    left = (steps - step) / (decay * steps) if decay else 1.0
    falling = to + (1 - to) * SHAPES[shape](min(1.0, left))
    return max(0.0, min(1.0, rising, falling)) if step >= start else 0.0
