"""The report of a sweep: `sweep.md`, `sweep.png` and `sweep.json`, from whatever its jobs left behind."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from scae.core.whole_files import write_text
from scae.report.arms import present, result
from scae.report.files import Job, ReportError, job_directories, read_job
from scae.report.grid import Grid, Row, duration, number
from scae.report.remarks import bullets, remarks_by_job
from scae.report.sweep_figure import sweep_figure
from scae.report.sweep_jobs import axis_of, varying

# header, metric of an arm, digits, scale
MAIN: tuple[tuple[str, str, int, float], ...] = (
    ("CE", "ce", 3, 1.0),
    ("ΔCE", "ce_diff", 3, 1.0),
    ("CE rec. %", "ce_recovered", 1, 100.0),
    ("KL", "kl", 3, 1.0),
    ("top-1 %", "top1", 1, 100.0),
    ("FVU mean", "fvu_mean", 3, 1.0),
    ("FVU max", "fvu_max", 3, 1.0),
    ("conn. rec. %", "connected_recovered", 1, 100.0),
)

REASONS = {
    "running": "still running, or killed",
    "no metrics": "it ended without an evaluation: `stages` leaves evaluate out, or metrics.json was removed",
}
"""Why a job has no numbers, where it left no error."""


def read_sweep(sweep_dir: Path) -> list[Job]:
    """Its jobs, finished or not, in order."""
    jobs = [read_job(path) for path in job_directories(sweep_dir)]
    if not jobs:
        raise ReportError(f"{sweep_dir} holds no jobs: expected sub-directories with metrics.json or job.json")
    return jobs


def jobs_grid(jobs: Sequence[Job]) -> Grid:
    """A row a job: what sets it apart, how it ended, and the arm that it is about."""
    keys = varying(jobs)
    rows = []
    for job in jobs:
        told = tuple(job.overrides.get(key, "default") for key in keys)
        results = (
            number(job.metrics.get(f"{result(job.metrics).key}/{name}"), digits, scale=scale, sign=name == "ce_diff")
            for _, name, digits, scale in MAIN
        )
        took = duration(job.seconds)
        rows.append(Row(cells=(job.name, *told, job.status, took, *results), faint=not job.metrics))
    headers = ("job", *keys, "status", "time", *(header for header, *_ in MAIN))
    title = f"{' and '.join(_results(jobs))}, by job"
    return Grid(headers=headers, rows=tuple(rows), left=2 + len(keys), title=title).without_empty_columns()


def _results(jobs: Sequence[Job]) -> list[str]:
    """The names of the arms that the jobs are about."""
    known = [job for job in jobs if job.metrics] or jobs
    return list(dict.fromkeys(result(job.metrics).label for job in known))


def arm_grid(jobs: Sequence[Job], metric: str, title: str) -> Grid:
    """One metric of every arm: a row a finished job, a column an arm."""
    keys = varying(jobs)
    done = [job for job in jobs if job.metrics]
    arms = present(key for job in done for key in job.metrics)
    references = ("lm/ce",) if metric == "ce" else ()
    rows = []
    for job in done:
        told = tuple(job.overrides.get(key, "default") for key in keys)
        values = [*references, *(f"{arm.key}/{metric}" for arm in arms)]
        rows.append(Row(cells=(job.name, *told, *(number(job.metrics.get(key)) for key in values))))
    headers = ("job", *keys, *("model" for _ in references), *(arm.label for arm in arms))
    return Grid(headers=headers, rows=tuple(rows), left=1 + len(keys), title=title)


def sweep_table(sweep_dir: Path) -> tuple[Table, ...]:
    """The tables of a sweep, for the terminal: the jobs, then the cross-entropy of every arm."""
    jobs = read_sweep(sweep_dir)
    tables = [jobs_grid(jobs).rich()]
    if any(job.metrics for job in jobs):
        tables.append(arm_grid(jobs, "ce", "CE by arm").rich())
    return tuple(tables)


def sweep_remarks(sweep_dir: Path) -> list[str]:
    """What must not be overlooked in the tables of a sweep, one line a job."""
    return remarks_by_job(read_sweep(sweep_dir))


def write_sweep(sweep_dir: Path) -> Path:
    """Write the report of a sweep from the files of its jobs; returns the page."""
    jobs = read_sweep(sweep_dir)
    axis = axis_of(jobs)
    done = [job for job in jobs if job.metrics]
    drawn = sweep_figure(jobs, axis, sweep_dir / "sweep.png")
    write_text(sweep_dir / "sweep.json", json.dumps(_summary(jobs, axis.keys), indent=2, allow_nan=True) + "\n")
    blocks = [f"# Sweep {sweep_dir.resolve().name}", f"{_count(done, jobs)} {_common(jobs)}".strip()]
    if drawn:
        blocks.append(f"![CE and mean FVU against {axis.name}]({drawn.name})")
    about = " or ".join(f"**{label}**" for label in _results(jobs))
    blocks += ["## Jobs", f"Results are those of the {about} arm.", jobs_grid(jobs).markdown()]
    blocks += [bullets(noted)] if (noted := remarks_by_job(jobs)) else []
    if done:
        blocks += ["## CE by arm", arm_grid(jobs, "ce", "").markdown()]
        blocks += ["## Mean FVU by arm", arm_grid(jobs, "fvu_mean", "").markdown()]
        arms = present(key for job in done for key in job.metrics)
        blocks += ["## The arms", "\n".join(f"- **{arm.label}**: {arm.meaning}." for arm in arms)]
    unfinished = [job for job in jobs if not job.metrics or job.status == "failed"]
    if unfinished:
        blocks += ["## Not finished", "\n".join(map(_complaint, unfinished))]
    blocks += ["## Where things lie", "\n".join(map(_link, jobs)), "All numbers above: [sweep.json](sweep.json)"]
    blocks.append(f"Rebuild this page, also when jobs are added: `python -m scae.report {sweep_dir}`")
    return write_text(sweep_dir / "sweep.md", "\n\n".join(blocks) + "\n")


def _count(done: Sequence[Job], jobs: Sequence[Job]) -> str:
    if not done:
        return f"None of the {len(jobs)} jobs has finished, so there is nothing to plot yet."
    return f"{len(done)} of {len(jobs)} jobs have metrics."


def _common(jobs: Sequence[Job]) -> str:
    keys = varying(jobs)
    shared = [f"{key}={value}" for key, value in jobs[0].overrides.items() if key not in keys]
    return f"All with `{' '.join(shared)}`." if shared else ""


def _complaint(job: Job) -> str:
    told = " ".join(f"{key}={value}" for key, value in job.overrides.items())
    reason = job.error or REASONS.get(job.status, "it left no message")
    return f"- **{job.name}** ({job.status}){f' `{told}`' if told else ''}: {reason}"


def _link(job: Job) -> str:
    page = "report.md" if (job.directory / "report.md").is_file() else ""
    return f"- job [{job.name}]({job.name}/{page})"


def _summary(jobs: Sequence[Job], axis_keys: Sequence[str]) -> dict[str, Any]:
    """The sweep for programs: what differs and the main metrics of every arm."""
    listed = []
    for job in jobs:
        keep = [f"{arm.key}/{name}" for arm in present(job.metrics) for _, name, *_ in MAIN]
        keep = [key for key in job.metrics if key.startswith("lm/") or key == "connectivity/C"] + keep
        listed.append(
            {
                "job": job.name,
                "status": job.status,
                "error": job.error,
                "seconds": job.seconds,
                "overrides": job.overrides,
                "metrics": {key: job.metrics[key] for key in keep if key in job.metrics},
            }
        )
    return {"axis": list(axis_keys), "varying": list(varying(jobs)), "jobs": listed}
