"""The learning rate over a stage: up, flat, down to zero."""


def trapezoid(step: int, *, steps: int, warmup: float, decay: float) -> float:
    """The factor on the learning rate at `step`: linear over the first and last shares of `steps`, 1 between."""
    rising = (step + 1) / (warmup * steps) if warmup else 1.0
    falling = (steps - step) / (decay * steps) if decay else 1.0
    return max(0.0, min(1.0, rising, falling))
