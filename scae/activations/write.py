"""Writing a store (`scae.activations.store`), a shard at a time.

The text tokens of the drawn windows are numbered in the order of the windows. With N of them and K shards, shard k has
the numbers k R to (k + 1) R, R = N // K (fewer than K tokens at the end are left out), each at a random place of it. So
one shard is held in memory, a shard that is there is not written again, and what an interrupted command has left is
gone on with.
"""

import hashlib
import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from scae.activations.store import PLACES, Column, columns_of, metadata_of, open_shard, shard_path
from scae.core.failures import ArtifactError
from scae.core.typing import Int, Tensor
from scae.core.whole_files import write
from scae.data import TokenWindows
from scae.lm import LanguageModel, Trace
from scae.sites import Site, read_at

log = logging.getLogger(__name__)
SHARD = 256 * 2**20  # bytes of a shard, which writing holds in memory
FEWEST = 16  # shards: what meets in a batch is another in every epoch, where each shard starts elsewhere
COUNTED = 4096  # windows whose text tokens are counted at a time
SECONDS_BETWEEN_LINES = 15.0


@dataclass(frozen=True, eq=False)
class Drawn:
    """The windows whose text is kept, in the order in which it is written.

    ends: how many text tokens there are up to the end of each window.
    """

    windows: TokenWindows
    index: Int[Tensor, " window"]
    ends: Int[Tensor, " window"]

    @classmethod
    def of(cls, windows: TokenWindows, index: Int[Tensor, " window"]) -> "Drawn":
        counts = torch.cat([windows.live(some).sum(1) for some in index.split(COUNTED)])
        return cls(windows, index, counts.cumsum(0))

    @property
    def n_tokens(self) -> int:
        return int(self.ends[-1])

    def holding(self, first: int, last: int) -> tuple[Int[Tensor, " window"], int]:
        """The windows that have the text tokens first to last - 1, and how many text tokens come before them."""
        at, to = torch.searchsorted(self.ends, torch.tensor([first, last - 1]), right=True).tolist()
        return self.index[at : to + 1], int(self.ends[at - 1]) if at else 0


@dataclass(frozen=True, eq=False)
class Writer:
    """What a store is made of. sites: what is kept; dtype: of the numbers on disk; autocast: what the model's products
    are rounded to, None: they are not; batch_size: windows that the model runs on at a time."""

    lm: LanguageModel
    sites: list[Site]
    drawn: Drawn
    dtype: torch.dtype
    autocast: torch.dtype | None
    batch_size: int
    seed: int
    shard_bytes: int = SHARD

    @property
    def columns(self) -> list[Column]:
        return columns_of(self.sites)

    @property
    def width(self) -> int:
        return len(self.columns) * self.lm.paths.d_model

    @property
    def bytes_a_token(self) -> int:
        return self.width * self.dtype.itemsize + len(PLACES) * 4

    @property
    def shards(self) -> int:
        needed = ceil(self.drawn.n_tokens * self.bytes_a_token / self.shard_bytes)
        return min(self.drawn.n_tokens, max(FEWEST, needed))

    @property
    def rows_a_shard(self) -> int:
        return self.drawn.n_tokens // self.shards

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the shards that are not there; returns facts about the store.

        Raises ArtifactError where the disk has not enough room, before anything is computed.
        """
        for site in self.sites:
            self.lm.watch(site.module)
        metadata = metadata_of(self.columns, shards=self.shards, kept=len(self.drawn.index))
        for leftover in folder.glob(".shard-*.tmp"):  # of a process that was killed
            leftover.unlink()
        missing = [number for number in range(self.shards) if not self._is_there(folder, number, metadata)]
        self._check_room(folder, len(missing))
        began = said = time.monotonic()
        for done, number in enumerate(missing, start=1):
            write(shard_path(folder, number), partial(save_file, self.shard(number), metadata=metadata))
            if time.monotonic() - said > SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                rate = done * self.rows_a_shard / (said - began)
                left = (len(missing) - done) * self.rows_a_shard / rate
                message = "activations: %d of %d files, %.1fk tokens/s, %.0f s left"
                log.info(message, self.shards - len(missing) + done, self.shards, rate / 1000, left)
        stored = self.shards * self.rows_a_shard
        return {"stored": stored, "bytes": stored * self.bytes_a_token, "shards": self.shards}

    def shard(self, number: int) -> dict[str, Tensor]:
        """The tensors of one shard, its tokens at random places."""
        size = self.rows_a_shard
        order = torch.randperm(size, generator=torch.Generator().manual_seed(mixed(self.seed, "shard", number)))
        rows = torch.empty(size, self.width, dtype=self.dtype)
        places = {name: torch.empty(size, dtype=torch.int32) for name in PLACES}
        for begins, index, trace in self._runs(number * size, (number + 1) * size):
            at = trace.live.cpu().nonzero()
            place_there = begins + torch.arange(len(at)) - number * size
            ours = (place_there >= 0) & (place_there < size)  # not those of a window that the shard before has, too
            at, to = at[ours], order[place_there[ours]]
            window, position = at.unbind(1)
            for name, values in zip(
                PLACES, (trace.tokens.cpu()[window, position], index[window], position), strict=True
            ):
                places[name][to] = values.int()
            window, position = at.to(trace.live.device).unbind(1)
            for stream, part in zip(self._streams(trace), rows.chunk(len(self.columns), dim=1), strict=True):
                part[to] = stream[window, position].to(self.dtype).cpu()
        return {"rows": rows, **places}

    @torch.no_grad()
    def _runs(self, first: int, last: int) -> Iterator[tuple[int, Int[Tensor, " window"], Trace]]:
        """Clean runs on the windows that have the text tokens first to last - 1: how many text tokens come before,
        which windows they are, and the run."""
        index, begins = self.drawn.holding(first, last)
        for some in index.split(self.batch_size):
            batch = self.drawn.windows.batch(some)
            with torch.autocast(self.lm.device.type, dtype=self.autocast, enabled=self.autocast is not None):
                trace = batch.to(self.lm.device).trace(self.lm, patterns=False)
            yield begins, some, trace
            begins += int(batch.live.sum())

    def _streams(self, trace: Trace) -> Iterator[Tensor]:
        """What is kept of a run, in the order of the columns."""
        read = dict(read_at(self.sites, trace, self.lm.paths))
        for column in self.columns:
            yield read[column.site] if column.part == "read" else trace.outputs[column.site.module]

    def _is_there(self, folder: Path, number: int, metadata: dict[str, str]) -> bool:
        """Whether an earlier command has written this shard whole."""
        if not shard_path(folder, number).exists():
            return False
        try:
            shard, found = open_shard(shard_path(folder, number))
        except ValueError as error:
            log.warning("%s; it is written again", error)
            return False
        return (
            found == metadata and shard.rows.shape == (self.rows_a_shard, self.width) and shard.rows.dtype == self.dtype
        )

    def _check_room(self, folder: Path, missing: int) -> None:
        """Says how large the store is."""
        whole, needed = (count * self.rows_a_shard * self.bytes_a_token for count in (self.shards, missing))
        free = shutil.disk_usage(folder).free
        kept = self.shards - missing
        log.info(
            "activations: %s text tokens x %d numbers of %s: %s in %d files%s; %s are free",
            f"{self.shards * self.rows_a_shard:,}",
            self.width,
            str(self.dtype).removeprefix("torch."),
            _size(whole),
            self.shards,
            f", {kept} of which are there already" if kept else "",
            _size(free),
        )
        if needed > free:
            raise ArtifactError(
                f"activations=stored: the store takes {_size(needed)} and {folder.parent.absolute()} has {_size(free)} "
                "free; make room, lower activations.tokens, take activations.dtype=bfloat16, fewer sites, or "
                "activations=live"
            )


def mixed(*what: object) -> int:
    """A seed of its own for each of these."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, what)).encode()).digest()[:8]) >> 1


def _size(count: int) -> str:
    unit, name = next(((size, name) for size, name in ((10**9, "GB"), (10**6, "MB")) if count >= size), (10**3, "kB"))
    return f"{count / unit:.3g} {name}" if count < 1000 * unit else f"{count / unit:,.0f} {name}"
