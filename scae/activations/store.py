"""A store on disk: what the sites of a model read and wrote at text tokens, in shuffled order.

    shard-0000.safetensors ... of K shards with R tokens each (memory-mapped, nothing is read before it is used)
        rows        [token, width]   columns side by side: what each transcoder reads, what each site writes
        tokens      [token]          the token itself
        windows     [token]          the training window that it is from
        positions   [token]          its position there

A shard is the text of a run of windows that were drawn at random, its tokens in random order (`write`). The store is
read along all shards at once: place p is row p // K of shard p % K. So K files are read from beginning to end, a batch
has as many tokens of every shard, and where in an epoch a token comes is as good as random: the tokens of a window all
lie in one shard (or two), at random places of it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open

from scae.core.typing import Float, Int32, Tensor
from scae.sites import Site

FORMAT = "scae.activations.1"
PLACES = ("tokens", "windows", "positions")


@dataclass(frozen=True)
class Column:
    """What a site reads, or what it writes; an autoencoder reads what it writes, which is kept once."""

    site: Site
    part: Literal["read", "write"]

    def __str__(self) -> str:
        return f"{self.site} {self.part}"

    @classmethod
    def parse(cls, text: str) -> "Column":
        site, _, part = text.partition(" ")
        return cls(Site.parse(site), "read" if part == "read" else "write")


def columns_of(sites: list[Site]) -> list[Column]:
    """What is kept of these sites, in this order."""
    return [Column(site, part) for site in sites for part in (("read", "write") if site.transcoder else ("write",))]


@dataclass(frozen=True)
class Shard:
    """One file of a store, mapped."""

    rows: Float[Tensor, "token width"]
    tokens: Int32[Tensor, " token"]
    windows: Int32[Tensor, " token"]
    positions: Int32[Tensor, " token"]


class Store:
    """An opened store. columns: what a row is made of; kept: how many windows its tokens are from."""

    def __init__(self, folder: Path) -> None:
        """Raises ValueError, naming the file, where one is not as it was written."""
        paths = sorted(folder.glob("shard-*.safetensors"))
        opened = [open_shard(path) for path in paths]
        if not opened:
            raise ValueError(f"{folder}: no store of activations: no shard-*.safetensors there")
        self.shards = [shard for shard, _ in opened]
        metadata, shape = opened[0][1], self.shards[0].rows.shape
        for path, (shard, own) in zip(paths, opened, strict=True):
            if own != metadata or shard.rows.shape != shape:
                raise ValueError(f"{path}: of another store than {paths[0].name}")
        facts = json.loads(metadata["store"])
        if len(paths) != facts["shards"]:
            raise ValueError(f"{folder}: {len(paths)} shards of a store that has {facts['shards']}")
        self.columns = [Column.parse(text) for text in facts["columns"]]
        self.kept = facts["kept"]

    @property
    def rows_a_shard(self) -> int:
        return len(self.shards[0].rows)

    def __len__(self) -> int:
        """Tokens."""
        return len(self.shards) * self.rows_a_shard

    @property
    def tokens_a_window(self) -> int:
        """Text tokens of a window, on average."""
        return max(1, len(self) // self.kept)


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:04d}.safetensors"


def metadata_of(columns: list[Column], *, shards: int, kept: int) -> dict[str, str]:
    """One entry: several are written in any order, and a shard that is made again is to have the same bytes."""
    facts = {"format": FORMAT, "columns": [str(column) for column in columns], "shards": shards, "kept": kept}
    return {"store": json.dumps(facts)}


def open_shard(path: Path) -> tuple[Shard, dict[str, str]]:
    """A shard and what its file says of the store; raises ValueError where it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            found = json.loads(metadata.get("store", "{}")).get("format")
            if found != FORMAT:
                raise ValueError(f"{path}: no shard of this version: format={found}; needed: {FORMAT}")
            return Shard(*(file.get_tensor(name) for name in ("rows", *PLACES))), metadata
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as safetensors: {error}") from error
