"""Which windows each micro-step of a training run sees.

With n windows, the epochs' permutations p_0, p_1, ... (each from a generator seeded by (seed, epoch)) are laid end to
end, and micro-step s takes places s * batch_size to (s + 1) * batch_size of that sequence: a pure function of
(seed, s). So a resumed run needs to know nothing but its micro-step, and the number of devices changes nothing.
"""

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import lightning
import torch
from jaxtyping import Int64
from torch import Tensor

from scae.config import ConfigError
from scae.data.windows import Batch, TokenWindows


class WindowModule(lightning.LightningDataModule):
    """The batches of one training stage, for a Trainer with max_epochs=1 and use_distributed_sampler=False.

    batch_size: windows a micro-step, over all devices together. steps: micro-steps in total, one epoch for Lightning,
    however often the windows come round.
    """

    def __init__(self, *, train: TokenWindows, batch_size: int, steps: int, seed: int) -> None:
        super().__init__()
        self.train = train
        self.batch_size = batch_size
        self.steps = steps
        self.seed = seed

    def indices(self, step: int) -> Int64[Tensor, " batch"]:
        """The windows of micro-step `step`, all devices together."""
        count = len(self.train)
        places = torch.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs = places // count
        shares = [_permutation(self.seed, int(e), count)[places[epochs == e] % count] for e in epochs.unique()]
        return torch.cat(shares)

    def batch(self, step: int, *, rank: int, world_size: int) -> Batch:
        """What device `rank` of `world_size` sees in micro-step `step`; raises ConfigError where shares are uneven."""
        if self.batch_size % world_size:
            raise ConfigError(
                f"batch_size={self.batch_size}: must be divisible by the {world_size} devices "
                "(trainer.devices x trainer.num_nodes); change one of them"
            )
        share = self.batch_size // world_size
        return self.train.batch(self.indices(step)[rank * share : (rank + 1) * share])

    def live_tokens(self, steps: int) -> int:
        """The text tokens of the first `steps` micro-steps, all devices together."""
        return sum(int(self.train.live(self.indices(step)).sum()) for step in range(steps))

    def train_dataloader(self) -> "MicroSteps":
        """The micro-steps that are still to do: all of them, or those after the one where a checkpoint was saved."""
        if self.trainer is None:
            return MicroSteps(self, first=0, rank=0, world_size=1)
        # Restored before Lightning asks for the loader; `processed` counts the batches whose training_step and
        # optimiser step are in the checkpoint, whatever hook it was saved from.
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        done = progress.processed
        return MicroSteps(self, first=done, rank=self.trainer.global_rank, world_size=self.trainer.world_size)

    def state_dict(self) -> dict[str, Any]:
        """What decides the batches; saved to notice a resumed run that would see others."""
        return {"windows": len(self.train), "batch_size": self.batch_size, "seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ConfigError where the checkpoint belongs to a run with other batches."""
        for key, here in self.state_dict().items():
            if state_dict[key] != here:
                raise ConfigError(
                    f"{key}={here}: the checkpoint was saved with {key}={state_dict[key]}; resume with that value, or "
                    "start anew"
                )


class MicroSteps:
    """The batches of one device, from micro-step `first` on.

    The length counts all micro-steps, those before `first` too: Lightning takes it for the length of the epoch.
    """

    def __init__(self, module: WindowModule, *, first: int, rank: int, world_size: int) -> None:
        self._module = module
        self._first = first
        self._rank = rank
        self._world_size = world_size
        module.batch(0, rank=rank, world_size=world_size)  # uneven shares are refused before the first step

    def __len__(self) -> int:
        return self._module.steps

    def __iter__(self) -> Iterator[Batch]:
        for step in range(self._first, self._module.steps):
            yield self._module.batch(step, rank=self._rank, world_size=self._world_size)

    # Lightning asks for these two before it believes that a loader can resume. The position itself is the trainer's.

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


def heldout_batches(windows: TokenWindows, *, tokens: int, batch_size: int) -> Iterator[Batch]:
    """About `tokens` tokens (BOS included, padding not), at least one window, spread evenly over the windows."""
    share = min(1.0, tokens / windows.n_tokens)
    count = max(1, int(share * len(windows)))
    spread = torch.arange(count) * len(windows) // count
    for first in range(0, count, batch_size):
        yield windows.batch(spread[first : first + batch_size])


@lru_cache(maxsize=2)  # a batch may cross from one epoch into the next
def _permutation(seed: int, epoch: int, count: int) -> Int64[Tensor, " window"]:
    # Hashed, so that (seed, epoch) and (seed + 1, epoch - 1) have nothing in common.
    mixed = int.from_bytes(hashlib.sha256(f"{seed}/{epoch}".encode()).digest()[:8])
    return torch.randperm(count, generator=torch.Generator().manual_seed(mixed >> 1))
