"""The files of a run and of a sweep: reading them and telling them apart.

A run directory holds `metrics.json` (flat keys, numbers), `job.json` and `run.json`; a sweep directory holds one run
directory a job. Any of the three may be missing where a job was killed.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Metrics = Mapping[str, float | int]


class ReportError(ValueError):
    """What is asked for cannot be reported; the message is one line for the user."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is on disk about one run.

    name: of its directory
    overrides: by key, as given on the command line
    choices: the option chosen in each config group
    status: completed, no metrics (it ended well without an evaluation), failed, stopped, running (or killed: a killed
        job says no more), or unknown
    error: the first line of it, or ""
    seconds: what it took, or None
    metrics: empty where the evaluation did not happen
    stages: the directory of each stage's artifact
    """

    name: str
    directory: Path
    overrides: dict[str, str]
    choices: dict[str, str]
    status: str
    error: str
    seconds: float | None
    metrics: dict[str, float]
    stages: dict[str, Path]


def read_json(path: Path) -> dict[str, Any]:
    """An object from a file; an empty one if there is no such file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReportError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ReportError(f"{path} holds a {type(content).__name__}, expected an object")
    return content


def read_metrics(directory: Path) -> dict[str, float]:
    """The numbers of `metrics.json`; anything else in it is left out."""
    content = read_json(directory / "metrics.json")
    return {key: float(value) for key, value in content.items() if isinstance(value, int | float)}


def parse_overrides(overrides: list[str]) -> dict[str, str]:
    """`["sae=topk", "+x.y=1", "~logger"]` by key; a deletion has the value "(deleted)"."""
    pairs = (str(override).lstrip("+").partition("=") for override in overrides)
    return {key: value if equals else "(deleted)" for key, equals, value in pairs}


def read_job(directory: Path) -> Job:
    """A job as far as its files tell; unreadable files make it a failed one."""
    problems: list[str] = []
    found: dict[str, dict[str, Any]] = {}
    for name in ("metrics.json", "job.json", "run.json"):
        try:
            found[name] = read_metrics(directory) if name == "metrics.json" else read_json(directory / name)
        except ReportError as error:
            problems.append(str(error))
            found[name] = {}
    job, metrics = found["job.json"], found["metrics.json"]
    status = str(job.get("status") or ("completed" if metrics else "unknown"))
    if status == "completed" and not metrics:
        status = "no metrics"
    error_lines = str(job.get("error") or "").strip().splitlines() or problems
    seconds = job.get("seconds")
    return Job(
        name=directory.name,
        directory=directory,
        overrides=parse_overrides(list(job.get("overrides") or [])),
        choices={str(group): str(option) for group, option in (job.get("choices") or {}).items()},
        status="failed" if problems else status,
        error=error_lines[0].strip() if error_lines else "",
        seconds=float(seconds) if isinstance(seconds, int | float) else None,
        metrics=metrics,
        stages={stage: directory / path for stage, path in (found["run.json"].get("stages") or {}).items()},
    )


def natural(text: str) -> list[tuple[int, int, str]]:
    """A sort key that puts "2.mlp" before "10.attn", and "embed", which is before all layers, before "0.attn"."""
    parts = re.findall(r"\d+|\D+", text)
    first = [(-1, 0, "")] if text == "embed" else []
    return first + [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


def is_run(directory: Path) -> bool:
    """Whether a run wrote into this directory, finished or not."""
    return any((directory / name).is_file() for name in ("metrics.json", "job.json"))


def job_directories(directory: Path) -> list[Path]:
    """The jobs of a sweep in their order; empty if this is none."""
    if not directory.is_dir():
        return []
    jobs = [path for path in directory.iterdir() if path.is_dir() and (is_run(path) or (path / ".hydra").is_dir())]
    return sorted(jobs, key=lambda path: natural(path.name))


def is_sweep(directory: Path) -> bool:
    """Whether this directory holds the directories of jobs, finished or not."""
    return not is_run(directory) and bool(job_directories(directory))
