"""How the time and the memory of a pruned step grow with features, connections, tokens and layers."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.measure import interleaved
from benchmarks.rows import Row, say
from benchmarks.suite_steps import write_connections
from benchmarks.synthetic import QUICK, Sizes
from benchmarks.worker import Case, peaks

BASE = Sizes(layers=4, d_model=256, heads=4, features=1024, k=64, C=32, windows=8, context=128)
AXES: dict[str, tuple[int, ...]] = {
    "features": (512, 1024, 2048, 4096),
    "C": (16, 32, 64, 128),
    "windows": (4, 8, 16, 32),
    "layers": (2, 4, 8),
}
QUICK_AXES: dict[str, tuple[int, ...]] = {"features": (128, 512), "C": (4, 16), "windows": (2, 8), "layers": (2, 8)}
GOALS = {"features": "<= 1.1", "C": "<= 1.1", "windows": "<= 1.1"}


def run(
    *,
    quick: bool,
    device: str,
    base: Sizes | None = None,
    axes: Mapping[str, Sequence[int]] | None = None,
    rounds: int = 7,
) -> list[Row]:
    """A row for each size that grows while the others stay."""
    base = base or (QUICK if quick else BASE)
    axes = axes or (QUICK_AXES if quick else AXES)
    with TemporaryDirectory() as folder:
        cases = {
            axis: {value: _case(Sizes(**(base.plain() | {axis: value})), Path(folder), device) for value in values}
            for axis, values in axes.items()
        }
        every = list({str(case): case for points in cases.values() for case in points.values()}.values())
        bytes_of = dict(zip(map(str, every), peaks(every, device=device), strict=True))
        return [_row(axis, base, points, bytes_of, device, 3 if quick else rounds) for axis, points in cases.items()]


def _case(sizes: Sizes, folder: Path, device: str) -> Case:
    """A pruned step with random connections: choosing them by contribution is no part of it."""
    path = folder / f"{sizes.layers}-{sizes.features}-{sizes.C}.safetensors"
    if not path.exists():
        write_connections(sizes, "random", str(path), device)
    return Case(
        "suite_steps.suite_step", {"sizes": sizes.plain(), "connections": str(path), "device": device, "mode": "pruned"}
    )


def _row(
    axis: str, base: Sizes, points: Mapping[int, Case], bytes_of: Mapping[str, int], device: str, rounds: int
) -> Row:
    say(f"scaling: {axis}")
    times = interleaved({str(value): case.make() for value, case in points.items()}, device=device, rounds=rounds)
    seconds = [times[str(value)].median for value in points]
    memory = [bytes_of[str(case)] for case in points.values()]
    name, factor = ("tokens", base.context) if axis == "windows" else (axis, 1)
    values = [value * factor for value in points]
    smallest, largest = values.index(min(values)), values.index(max(values))
    shown: dict[str, Any] = base.shown()
    shown[{"features": "F", "layers": "L"}.get(name, name)] = f"{min(values)}..{max(values)}"
    return Row(
        name=name,
        ratio=slope(values, seconds),
        ratio_is="log-log slope of the time of a pruned step; ours: at the largest, baseline: at the smallest size",
        ours_s=seconds[largest],
        baseline_s=seconds[smallest],
        ours_bytes=memory[largest],
        baseline_bytes=memory[smallest],
        sizes=shown,
        goal=GOALS.get(axis, ""),
        extra={
            "memory_slope": slope(values, memory),
            "points": [
                {"value": value, "seconds": s, "bytes": b} for value, s, b in zip(values, seconds, memory, strict=True)
            ],
        },
    )


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The least-squares slope of log y over log x: 1 where y grows in proportion."""
    log_x, log_y = [math.log(v) for v in x], [math.log(max(v, 1e-12)) for v in y]
    mean_x, mean_y = sum(log_x) / len(log_x), sum(log_y) / len(log_y)
    over = sum((a - mean_x) * (b - mean_y) for a, b in zip(log_x, log_y, strict=True))
    return over / sum((a - mean_x) ** 2 for a in log_x)
