"""Which windows each micro-step of a training run sees.

With n windows, the epochs' permutations p_0, p_1, ... (each from a generator seeded by (seed, epoch)) are laid end to
end, and micro-step s takes places s * batch_size to (s + 1) * batch_size of that sequence: a pure function of
(seed, s), whatever the number of devices.
"""

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from scae.data.steps import Steps
from scae.data.windows import Batch, TokenWindows


class WindowModule(Steps):
    """Windows of tokens; the model runs on each batch when it is asked for its trace."""

    def __init__(self, *, train: TokenWindows, batch_size: int, steps: int, seed: int) -> None:
        super().__init__(batch_size=batch_size, steps=steps, seed=seed)
        self.train = train

    def indices(self, step: int) -> Int64[Tensor, " row"]:
        count = len(self.train)
        places = torch.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs = places // count
        shares = [_permutation(self.seed, int(e), count)[places[epochs == e] % count] for e in epochs.unique()]
        return torch.cat(shares)

    def batch(self, step: int, *, rank: int, world_size: int) -> Batch:
        return self.train.batch(self.indices(step)[self.share(self.batch_size, rank, world_size)])

    def live_tokens(self, steps: int) -> int:
        return sum(int(self.train.live(self.indices(step)).sum()) for step in range(steps))

    def place(self, step: int, row: int, position: int) -> str:
        return f"position {position} of training window {int(self.indices(step)[row])}"

    def state_dict(self) -> dict[str, Any]:
        return {"windows": len(self.train), "batch_size": self.batch_size, "seed": self.seed}


def heldout_batches(windows: TokenWindows, *, tokens: int, batch_size: int) -> Iterator[Batch]:
    """About `tokens` tokens (BOS included, padding not), at least one window, spread evenly over the windows."""
    for indices in heldout_windows(windows, tokens).split(batch_size):
        yield windows.batch(indices)


def heldout_windows(windows: TokenWindows, tokens: int) -> Int64[Tensor, " window"]:
    """Which windows these are."""
    share = min(1.0, tokens / windows.n_tokens)
    count = max(1, int(share * len(windows)))
    return torch.arange(count) * len(windows) // count


@lru_cache(maxsize=2)  # a batch may cross from one epoch into the next
def _permutation(seed: int, epoch: int, count: int) -> Int64[Tensor, " window"]:
    # Hashed, so that (seed, epoch) and (seed + 1, epoch - 1) have nothing in common.
    mixed = int.from_bytes(hashlib.sha256(f"{seed}/{epoch}".encode()).digest()[:8])
    return torch.randperm(count, generator=torch.Generator().manual_seed(mixed >> 1))
