"""Training stops at the first number that is not finite, before an optimiser step could write it into the weights.

Once an optimiser step, the losses of its micro-steps and the gradient norms of its parts (the sites of a suite) are
put into one small tensor, added up over the processes, and read: one transfer, and all processes stop together. Weights
are read before every checkpoint and at the end, so that a bad one never replaces a good one.

Only after a failure is the batch computed again, to find where on the way to the loss it went wrong.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning
import torch
import torch.distributed as dist
from torch import nn

from scae.core.failures import NonFiniteError, some
from scae.core.typing import Float, Tensor

SHOWN = 4  # places named in an error
WINDOWS_SHOWN = 16


@runtime_checkable
class Watched(Protocol):
    """What a module offers so that an error can name the place."""

    def parts(self) -> dict[str, nn.Module]:
        """What is trained, by the name that a user knows."""

    def on_the_way(self, batch: Any) -> Iterator[tuple[str, Tensor]]:
        """What is computed from a batch, by name, in order, up to the terms of the loss."""


class Finite(lightning.Callback):
    """Raises NonFiniteError where a loss, a gradient or a weight is not finite."""

    def __init__(self, stage: str, checkpoint: Path, *, section: str) -> None:
        """checkpoint: where the stage keeps its last one; section: of the configuration that it is trained with."""
        self.stage, self.checkpoint, self.section = stage, checkpoint, section
        self._losses: list[Float[Tensor, ""]] = []  # of the micro-steps since the last optimiser step

    def on_before_backward(self, trainer: lightning.Trainer, pl_module: Any, loss: Float[Tensor, ""]) -> None:
        self._losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer: lightning.Trainer, pl_module: Any, optimizer: Any) -> None:
        losses, self._losses = self._losses, []
        norms = _gradient_norms(pl_module)
        numbers = trainer.strategy.reduce(torch.stack([*losses, *norms.values()]), reduce_op="sum")
        finite = torch.isfinite(numbers).tolist()
        if not all(finite):
            bad_parts = [name for name, fine in zip(norms, finite[len(losses) :], strict=True) if not fine]
            self._explain(trainer, pl_module, finite[: len(losses)], bad_parts)

    def on_save_checkpoint(self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._check_weights(trainer, pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._check_weights(trainer, pl_module)

    def _explain(self, trainer: Any, module: Watched, finite_losses: list[bool], bad_parts: list[str]) -> None:
        last = trainer.fit_loop.epoch_loop.batch_idx
        steps = list(range(last - len(finite_losses) + 1, last + 1))
        bad_steps = [step for step, fine in zip(steps, finite_losses, strict=True) if not fine]
        steps = bad_steps[:1] or steps
        bad = [*_bad_weights(module), *_bad_on_the_way(trainer, module, steps)]
        bad += ["the loss"] if bad_steps else [f"the gradient of {name}" for name in bad_parts]
        self._stop(f"before step {trainer.global_step + 1} of {trainer.max_steps}", bad, _batch(trainer, steps))

    def _check_weights(self, trainer: lightning.Trainer, module: Watched) -> None:
        if bad := _bad_weights(module):
            self._stop(f"after step {trainer.global_step} of {trainer.max_steps}", bad)

    def _stop(self, when: str, bad: Sequence[str], *batch: str) -> None:
        left = f"{self.checkpoint} is from before; a repeat of the command goes on from it, to the same batch"
        lines = [
            f"{self.stage} stopped {when}; not finite (NaN or infinity): {some(bad, SHOWN)}",
            *batch,
            f"checkpoint: {left if self.checkpoint.is_file() else 'none was written yet'}",
            f"try: a lower {self.section}.lr, or trainer.precision=32-true",
        ]
        raise NonFiniteError("\n  ".join(lines))


def _gradient_norms(module: Watched) -> dict[str, Float[Tensor, ""]]:
    """By part; a part that the loss does not reach has none."""
    gradients = {
        name: [p.grad for p in part.parameters() if p.grad is not None] for name, part in module.parts().items()
    }
    return {name: nn.utils.get_total_norm(own) for name, own in gradients.items() if own}


def _bad_weights(module: Watched) -> list[str]:
    """A line a part."""
    bad = {name: _bad_tensors(part) for name, part in module.parts().items()}
    return [f"{some(tensors, SHOWN)} of {name}" for name, tensors in bad.items() if tensors]


def _bad_tensors(part: nn.Module) -> list[str]:
    tensors = {name: value for name, value in part.state_dict().items() if value.is_floating_point()}
    tensors.pop("ceiling", None)  # infinite where activations are not bounded
    if torch.isfinite(nn.utils.get_total_norm(list(tensors.values()))):  # far cheaper than to look at every entry
        return []
    return [name for name, value in tensors.items() if not torch.isfinite(value).all()]


@torch.no_grad()
def _bad_on_the_way(trainer: Any, module: Watched, steps: Sequence[int]) -> list[str]:
    """What is not finite in the first share of these micro-steps in which anything is; every process says the same."""
    own = []
    for step in steps:
        batch = trainer.datamodule.batch(step, rank=trainer.global_rank, world_size=trainer.world_size)
        values = module.on_the_way(batch.to(trainer.strategy.root_device))
        own.append([name for name, value in values if not torch.isfinite(value).all()])
    everywhere = _gathered(own)
    return next((bad for of_step in zip(*everywhere, strict=True) for bad in of_step if bad), [])


def _gathered(own: list[list[str]]) -> list[list[list[str]]]:
    """What every process has found."""
    if not (dist.is_available() and dist.is_initialized()):
        return [own]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, own)
    return found


def _batch(trainer: Any, steps: Sequence[int]) -> str:
    windows = [str(int(window)) for step in steps for window in trainer.datamodule.indices(step)]
    return f"batch: micro-step {', '.join(map(str, steps))}, training windows {some(windows, WINDOWS_SHOWN)}"
