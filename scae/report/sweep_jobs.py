"""The jobs of a sweep: what differs between them, and along which axis they are plotted."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from scae.report.files import Job, natural

C_KEY = "connectivity.C"
REPEATS = ("seed",)  # jobs that differ in nothing else are repeats of one point
ALL = float("inf")


def varying(jobs: Sequence[Job]) -> tuple[str, ...]:
    """The overrides whose value is not the same in all jobs (missing counts as a value), in order of appearance."""
    keys = dict.fromkeys(key for job in jobs for key in job.overrides)
    return tuple(key for key in keys if len({job.overrides.get(key) for job in jobs}) > 1)


def budget(job: Job) -> float | None:
    """The C of a job: what was asked for, or what the connections say; infinite for all, None if unknown."""
    text = job.overrides.get(C_KEY, "").strip("'\"")
    if text in ("all", "inf"):
        return ALL
    if re.fullmatch(r"\d+(\.0*)?", text):
        return float(text)
    return job.metrics.get("connectivity/C")


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Where jobs lie along x.

    name: what is swept, for the axis
    numeric: the axis is C on a log scale; otherwise categories at 0, 1, ...
    keys: the overrides on the axis
    panels: the overrides that open a row of panels for each of their values
    """

    name: str
    numeric: bool
    keys: tuple[str, ...]
    panels: tuple[str, ...]

    def place(self, job: Job) -> float | str | None:
        return budget(job) if self.numeric else settings(job, self.keys)


def axis_of(jobs: Sequence[Job]) -> Axis:
    """C where jobs differ in it, with anything else in panels; otherwise all that differs, as categories."""
    keys = varying(jobs)
    if C_KEY in keys or not keys:
        panels = tuple(key for key in keys if key != C_KEY and key not in REPEATS)
        return Axis(name=C_KEY, numeric=True, keys=(C_KEY,), panels=panels)
    swept = tuple(key for key in keys if key not in REPEATS) or keys
    return Axis(name=", ".join(swept), numeric=False, keys=swept, panels=())


def settings(job: Job, keys: Sequence[str]) -> str:
    """The values of some overrides, with their names where there are several."""
    values = [(key, job.overrides.get(key, "default")) for key in keys]
    return values[0][1] if len(values) == 1 else "\n".join(f"{key}={value}" for key, value in values)


def panels_of(jobs: Sequence[Job], axis: Axis) -> dict[str, list[Job]]:
    """The jobs of each row of panels, by its title."""
    panels: dict[str, list[Job]] = {}
    for job in jobs:
        title = ", ".join(f"{key}={job.overrides.get(key, 'default')}" for key in axis.panels)
        panels.setdefault(title, []).append(job)
    return panels


def ordered(values: set[float | str]) -> list[float | str]:
    """Numbers by size, words in natural order."""
    return sorted(values, key=lambda value: (0, value, []) if isinstance(value, float) else (1, 0.0, natural(value)))
