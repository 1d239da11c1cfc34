"""The rows that a fit has written (`scae.training.history`, logger=csv), as lines to draw."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from scae.report.files import Job

Points = tuple[tuple[float, float], ...]
"""(optimiser steps done, value)."""


@dataclass(frozen=True)
class Curves:
    """By the name that the history has for it, what was logged in one stage."""

    stage: str
    lines: dict[str, Points]


def read_curves(job: Job) -> list[Curves]:
    """Of every stage of a run whose history is there, in the order of the stages."""
    found = [Curves(stage, read_lines(folder / "logs" / "metrics.csv")) for stage, folder in job.stages.items()]
    return [curves for curves in found if curves.lines]


def read_lines(file: Path) -> dict[str, Points]:
    """Empty where there is no file. A row repeats what was last known of a metric: a validation is one point, where it
    was made."""
    if not file.is_file():
        return {}
    with file.open(newline="") as opened:
        rows = [{name: _number(cell) for name, cell in row.items() if name} for row in csv.DictReader(opened)]
    lines: dict[str, list[tuple[float, float]]] = {}
    before: dict[str, float] = {}
    for row in rows:
        valid = {name: value for name, value in row.items() if name.startswith("valid/")}
        shown = row if valid != before else {name: value for name, value in row.items() if name not in valid}
        before = valid
        for name, value in shown.items():
            if name != "step" and math.isfinite(value) and math.isfinite(row.get("step", math.nan)):
                lines.setdefault(name, []).append((row["step"] + 1, value))
    return {name: tuple(points) for name, points in lines.items()}


def _number(cell: str | None) -> float:
    """NaN for what is no number: an empty cell, or a line that a killed fit has left unfinished."""
    try:
        return float(cell or "nan")
    except ValueError:
        return math.nan
