"""Batches that are a pure function of the micro-step: whoever computes step s again sees what it saw.

So a resumed run needs to know nothing but its micro-step, and N processes take N parts of what one would take.
"""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import lightning
from jaxtyping import Int64
from torch import Tensor

from scae.config import ConfigError


class Steps(lightning.LightningDataModule):
    """The batches of one training stage, for a Trainer with max_epochs=1 and use_distributed_sampler=False.

    batch_size: what a micro-step is made of, over all devices together, in windows. steps: micro-steps in total, one
    epoch for Lightning, however often the text comes round.
    """

    def __init__(self, *, batch_size: int, steps: int, seed: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.steps = steps
        self.seed = seed

    @abstractmethod
    def indices(self, step: int) -> Int64[Tensor, " row"]:
        """The training window of each row of micro-step `step`, all devices together."""

    @abstractmethod
    def batch(self, step: int, *, rank: int, world_size: int) -> Any:
        """What device `rank` of `world_size` sees in micro-step `step`: `.trace(lm)` is the clean run on it.

        Raises ConfigError where shares are uneven.
        """

    @abstractmethod
    def place(self, step: int, row: int, position: int) -> str:
        """Where a position of a row of micro-step `step` is in the text, for a message."""

    @abstractmethod
    def live_tokens(self, steps: int) -> int:
        """The text tokens of the first `steps` micro-steps, all devices together."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What decides the batches; saved to notice a resumed run that would see others."""

    def share(self, size: int, rank: int, world_size: int) -> slice:
        """The part of `size` rows that device `rank` takes."""
        if self.batch_size % world_size:
            raise ConfigError(
                f"batch_size={self.batch_size}: must be divisible by the {world_size} devices "
                "(trainer.devices x trainer.num_nodes); change one of them"
            )
        own = size // world_size
        return slice(rank * own, (rank + 1) * own)

    def train_dataloader(self) -> "MicroSteps":
        """The micro-steps that are still to do: all of them, or those after the one where a checkpoint was saved."""
        if self.trainer is None:
            return MicroSteps(self, first=0, rank=0, world_size=1)
        # Restored before Lightning asks for the loader; `processed` counts the batches whose training_step and
        # optimiser step are in the checkpoint, whatever hook it was saved from.
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        done = progress.processed
        return MicroSteps(self, first=done, rank=self.trainer.global_rank, world_size=self.trainer.world_size)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ConfigError where the checkpoint belongs to a run with other batches."""
        for key, here in self.state_dict().items():
            if state_dict.get(key) != here:
                raise ConfigError(
                    f"{key}={here}: the checkpoint was saved with {key}={state_dict.get(key)}; resume with that value, "
                    "or start anew"
                )


class MicroSteps:
    """The batches of one device, from micro-step `first` on.

    The length counts all micro-steps, those before `first` too: Lightning takes it for the length of the epoch.
    """

    def __init__(self, module: Steps, *, first: int, rank: int, world_size: int) -> None:
        self._module = module
        self._first = first
        self._rank = rank
        self._world_size = world_size
        module.batch(0, rank=rank, world_size=world_size)  # uneven shares are refused before the first step

    def __len__(self) -> int:
        return self._module.steps

    def __iter__(self) -> Iterator[Any]:
        for step in range(self._first, self._module.steps):
            yield self._module.batch(step, rank=self._rank, world_size=self._world_size)

    # Lightning asks for these two before it believes that a loader can resume. The position itself is the trainer's.

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass
