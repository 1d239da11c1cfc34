"""Optimiser steps, each of which is `trainer.accumulate` micro-steps."""

import lightning


def ends_step(trainer: lightning.Trainer, batch_idx: int) -> bool:
    """Whether this micro-step is the last of its optimiser step."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0
