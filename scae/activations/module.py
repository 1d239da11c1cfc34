"""Batches from a store.

With n tokens in K shards of R rows, micro-step s of B tokens takes the places s B to (s + 1) B of an endless sequence
of epochs. Place p of epoch e is row (p // K + shift(e, k)) mod R of shard k = p % K; the shifts of each epoch are
random, so that other tokens meet in a batch than in the epoch before.

B is `batch_size` windows' worth of text tokens, on average: as many as a batch of live windows has.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch

from scae.activations.store import Column, Shard, Store
from scae.activations.write import mixed
from scae.core.typing import Bool, Float, Int, Tensor
from scae.data import Steps
from scae.lm import LanguageModel, Module, Trace

Piece = tuple[Shard, slice]
"""Rows of a shard that follow one another."""


class StoredBatch(NamedTuple):
    """Text tokens from anywhere, each a window of one position, and what the sites read and wrote there.

    A named tuple of tensors and plain values, as `scae.data.Batch` is.
    """

    rows: Float[Tensor, "token width"]
    tokens: Int[Tensor, "token 1"]
    live: Bool[Tensor, "token 1"]
    columns: tuple[str, ...]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "StoredBatch":
        """The same batch on another device."""
        return self._replace(
            rows=self.rows.to(device, non_blocking=non_blocking),
            tokens=self.tokens.to(device, non_blocking=non_blocking),
            live=self.live.to(device, non_blocking=non_blocking),
        )

    def trace(self, lm: LanguageModel, *, patterns: bool) -> Trace:
        """What is known of the model's clean run on these tokens: what the plain pass needs."""
        if patterns:
            raise ValueError("stored activations have no attention patterns: only the plain pass runs on them")
        rows = self.rows.to(lm.paths.W_U.dtype)[:, None]
        parts: dict[str, dict[Module, Tensor]] = {"read": {}, "write": {}}
        for text, stream in zip(self.columns, rows.chunk(len(self.columns), dim=2), strict=True):
            column = Column.parse(text)
            parts[column.part][column.site.module] = stream
        unknown = rows.new_full((), torch.nan).expand(len(rows), 1, lm.paths.d_model)
        return Trace(
            tokens=self.tokens,
            live=self.live,
            embed=unknown,
            outputs=parts["write"],
            scales={},
            patterns=None,
            reads=parts["read"],
        )


class StoredModule(Steps):
    """Tokens of a store, for the plain pass."""

    def __init__(self, *, store: Store, batch_size: int, steps: int, seed: int) -> None:
        super().__init__(batch_size=batch_size, steps=steps, seed=seed)
        self.store = store

    @property
    def tokens_a_step(self) -> int:
        """Text tokens of a micro-step, over all devices together."""
        return self.batch_size * self.store.tokens_a_window

    def indices(self, step: int) -> Int[Tensor, " row"]:
        return torch.cat([shard.windows[part] for shard, part in self._pieces(step)])

    def batch(self, step: int, *, rank: int, world_size: int) -> StoredBatch:
        pieces = list(_within(self._pieces(step), self.share(self.tokens_a_step, rank, world_size)))
        tokens = torch.cat([shard.tokens[part] for shard, part in pieces]).long()[:, None]
        return StoredBatch(
            rows=torch.cat([shard.rows[part] for shard, part in pieces]),
            tokens=tokens,
            live=torch.ones_like(tokens, dtype=torch.bool),
            columns=tuple(map(str, self.store.columns)),
        )

    def live_tokens(self, steps: int) -> int:
        return steps * self.tokens_a_step

    def place(self, step: int, row: int, position: int) -> str:
        at = int(torch.cat([shard.positions[part] for shard, part in self._pieces(step)])[row])
        return f"position {at} of training window {int(self.indices(step)[row])}"

    def state_dict(self) -> dict[str, Any]:
        return {"stored_tokens": len(self.store), "batch_size": self.batch_size, "seed": self.seed}

    def _pieces(self, step: int) -> Iterator[Piece]:
        """Where the tokens of a micro-step lie, all devices together."""
        place, end = step * self.tokens_a_step, (step + 1) * self.tokens_a_step
        count, size = len(self.store.shards), self.store.rows_a_shard
        while place < end:
            epoch, first = divmod(place, len(self.store))
            last = min(len(self.store), first + end - place)
            for number, shard in enumerate(self.store.shards):
                start, stop = (-((number - at) // count) for at in (first, last))  # the first row at or after a place
                for run in _wrapped(start + self._shift(epoch, number), stop - start, size):
                    yield shard, run
            place += last - first

    def _shift(self, epoch: int, number: int) -> int:
        return mixed(self.seed, epoch, number) % self.store.rows_a_shard


def _within(pieces: Iterable[Piece], share: slice) -> Iterator[Piece]:
    """The part of these rows, laid end to end, that one device takes."""
    before = 0
    for shard, rows in pieces:
        start, stop = (min(max(rows.start, rows.start + at - before), rows.stop) for at in (share.start, share.stop))
        if start < stop:
            yield shard, slice(start, stop)
        before += rows.stop - rows.start


def _wrapped(start: int, count: int, size: int) -> Iterator[slice]:
    """`count` rows from `start` on, of `size` rows that follow one another in a circle."""
    start %= size
    while count > 0:
        stop = min(size, start + count)
        yield slice(start, stop)
        count, start = count - (stop - start), 0
