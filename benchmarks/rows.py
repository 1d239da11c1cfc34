"""The rows of a benchmark, the table that people read and the JSON that programs read."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Samples, machine

WIDTH = 150


@dataclass(frozen=True)
class Row:
    """One comparison. ratio_is: how the ratio comes from the two medians, in words; goal: what it should be; None: not
    measured, as the times of a package that cannot run here; extra: further keys of the JSON."""

    name: str
    ratio: float | None
    ratio_is: str
    ours_s: float
    baseline_s: float | None
    ours_bytes: int | None
    baseline_bytes: int | None
    sizes: dict[str, Any]
    goal: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def between(cls, name: str, ours: Samples, baseline: Samples, memory: Sequence[int], **given: Any) -> "Row":
        """A row of medians that were measured in turns; `given` says the ratio, the sizes, the goal, and what else."""
        counts = {"ours_runs": len(ours.seconds), "baseline_runs": len(baseline.seconds)}
        return cls(
            name=name,
            ours_s=ours.median,
            baseline_s=baseline.median,
            ours_bytes=memory[0],
            baseline_bytes=memory[1],
            extra=given.pop("extra", {}) | counts,
            **given,
        )

    def plain(self) -> dict[str, Any]:
        values = asdict(self)
        return values | values.pop("extra")


def console(*, stderr: bool = False) -> Console:
    """A terminal has its own width; a pipe gets the room that the tables want."""
    terminal = Console(stderr=stderr)
    return terminal if terminal.is_terminal else Console(stderr=stderr, width=WIDTH)


def say(message: str) -> None:
    """Tell whoever waits what is going on; on standard error, out of the way of the table."""
    console(stderr=True).print(message, style="dim", highlight=False, markup=False)


def tables(name: str, rows: Iterable[Row]) -> list[Table]:
    """One table for each meaning of the ratio, which stands above it."""
    made: dict[str, Table] = {}
    for row in rows:
        if row.ratio_is not in made:
            table = Table(title=f"{name}: ratio = {row.ratio_is}", title_justify="left", title_style="bold")
            for column in ("row", "ratio", "goal", "ours", "baseline", "our memory", "its memory", "sizes"):
                table.add_column(column, justify="left" if column in ("row", "sizes") else "right")
            made[row.ratio_is] = table
        made[row.ratio_is].add_row(
            row.name,
            "" if row.ratio is None else f"{row.ratio:.3g}",
            row.goal,
            _seconds(row.ours_s),
            _seconds(row.baseline_s),
            _megabytes(row.ours_bytes),
            _megabytes(row.baseline_bytes),
            " ".join(f"{key}={value}" for key, value in row.sizes.items()),
        )
    return list(made.values())


def write_json(path: Path, rows: Iterable[Row], *, device: str, command: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    note = {
        "machine": machine(device),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "rows": [row.plain() for row in rows],
    }
    path.write_text(json.dumps(note, indent=2, allow_nan=False) + "\n")


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def _megabytes(value: int | None) -> str:
    return "" if value is None else f"{value / 2**20:,.0f} MB"
