"""What an analysis costs on a large text: the database of activations both ways, and the statistics of every feature.

Activations are drawn (no model runs here): of each live token k features of each site, the r-th most frequent of them
in proportion to 1 / (r + 20), their values exponential. They come in parts, as those of a run do. One site after the
other is written and looked at, each in a process of its own that reports its peak memory above that before it.

    rows a site       write     the file both ways, from its parts on disk
                      look      rates, histograms, top and quantile examples
    row of all sites  seconds and bytes on disk of all sites together

Further rows belong to what is known of features to each other (`scae.analysis.between`).
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from time import perf_counter
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from benchmarks.rows import Row, say
from benchmarks.worker import Case, measured
from scae.analysis.database import Part, write_codes
from scae.analysis.statistics import Extent, statistics
from scae.report.analysis_files import Tables

PART = 1 << 13
CONTEXT = 128


@dataclass(frozen=True)
class Sizes:
    tokens: int = 1_000_000
    sites: int = 12
    features: int = 16_384
    k: int = 32


def run(*, quick: bool, device: str, sizes: Sizes | None = None) -> list[Row]:
    """Rows of one site (median over sites), and one of all."""
    sizes = sizes or (Sizes(tokens=20_000, sites=2, features=512, k=8) if quick else Sizes())
    folder = Path(mkdtemp(prefix="scae-analysis-"))
    try:
        return _rows(sizes, folder)
    finally:
        shutil.rmtree(folder)


def _rows(sizes: Sizes, folder: Path) -> list[Row]:
    seconds: dict[str, list[float]] = {"write": [], "look": []}
    memory: dict[str, list[int]] = {"write": [], "look": []}
    disk = 0
    for site in range(sizes.sites):
        say(f"analysis: site {site + 1} of {sizes.sites}, drawing")
        draw(folder, sizes, seed=site)
        for step in seconds:
            say(f"analysis: site {site + 1} of {sizes.sites}, {step}")
            values = {"folder": str(folder), "n_tokens": sizes.tokens, "n_features": sizes.features}
            (found,) = measured([Case(f"analysis.{step}", values, warm=False)], device="cpu")
            seconds[step].append(float((folder / f"{step}.txt").read_text()))
            memory[step].append(found["bytes"])
        disk += (folder / "codes.safetensors").stat().st_size
    note = {"tokens": sizes.tokens, "F": sizes.features, "k": sizes.k}
    rows = [
        _row(f"{step}, one site", float(np.median(times)), max(memory[step]), disk // sizes.sites, note)
        for step, times in seconds.items()
    ]
    total, most = sum(map(sum, seconds.values())), max(map(max, memory.values()))
    return [*rows, _row(f"all {sizes.sites} sites", total, most, disk, note | {"sites": sizes.sites})]


def _row(name: str, seconds: float, memory: int, disk: int, sizes: dict[str, Any]) -> Row:
    return Row(
        name=name,
        ratio=None,
        ratio_is="none; ours: seconds, and peak memory above that before; disk: of the files that stay",
        ours_s=seconds,
        baseline_s=None,
        ours_bytes=memory,
        baseline_bytes=None,
        sizes=sizes | {"disk": f"{disk / 2**20:,.0f} MB"},
        extra={"disk_bytes": disk},
    )


def draw(folder: Path, sizes: Sizes, *, seed: int) -> None:
    """Write the parts of one site."""
    random = np.random.default_rng(seed)
    weights = 1 / (np.arange(sizes.features) + 20)
    cumulated = np.cumsum(random.permutation(weights / weights.sum()))
    shutil.rmtree(folder / "parts", ignore_errors=True)
    (folder / "parts").mkdir()
    for number, start in enumerate(range(0, sizes.tokens, PART)):
        count = min(PART, sizes.tokens - start)
        drawn = np.sort(np.searchsorted(cumulated[:-1], random.random((count, sizes.k))), axis=1).astype(np.int32)
        new = np.diff(drawn, axis=1, prepend=-1) > 0  # a feature is active once a token
        part = {
            "counts": new.sum(1).astype(np.int32),
            "feature": drawn[new],
            "value": random.exponential(size=int(new.sum())).astype(np.float32) + np.float32(1e-6),
        }
        save_file(part, folder / "parts" / f"{number:05d}.safetensors")


class _Step:
    """Something that `benchmarks.worker` measures; it also writes down how long it took."""

    def __init__(self, name: str, folder: Path, work: Callable[[], None]) -> None:
        self._name, self._folder, self._work = name, folder, work

    def settle(self) -> None:
        """Nothing is to be prepared."""

    def rest(self) -> None:
        """Nothing is to be let go."""

    def __call__(self) -> None:
        began = perf_counter()
        self._work()
        (self._folder / f"{self._name}.txt").write_text(str(perf_counter() - began))


def write(*, folder: str, n_tokens: int, n_features: int) -> _Step:
    place = Path(folder)

    def parts() -> Iterator[Part]:
        for path in sorted((place / "parts").iterdir()):
            file = Tables(path)
            yield Part(file["counts"], file["feature"], file["value"])

    def work() -> None:
        write_codes(place / "codes.safetensors", parts, n_tokens=n_tokens, n_features=n_features)

    return _Step("write", place, work)


def look(*, folder: str, n_tokens: int, n_features: int) -> _Step:
    place = Path(folder)

    def work() -> None:
        codes = Tables(place / "codes.safetensors")
        found = statistics(codes, Extent(n_tokens, CONTEXT), examples=16, seed=0)
        assert len(found["rate"]) == n_features

    return _Step("look", place, work)
