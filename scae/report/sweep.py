"""The report of a sweep: `sweep.md`, `sweep.png`, `sweep.json`, `report.html`, from whatever its jobs left behind."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from scae.core.whole_files import write_text
from scae.report.arms import present
from scae.report.files import Job, ReportError, job_directories, read_job
from scae.report.pages import write_sweep_pages
from scae.report.remarks import bullets, remarks_by_job
from scae.report.sweep_figure import sweep_figure
from scae.report.sweep_grids import MAIN, REASONS, arm_grid, common, count, jobs_grid, told_of
from scae.report.sweep_jobs import axis_of, varying


def read_sweep(sweep_dir: Path) -> list[Job]:
    """Its jobs, finished or not, in order."""
    jobs = [read_job(path) for path in job_directories(sweep_dir)]
    if not jobs:
        raise ReportError(f"{sweep_dir} holds no jobs: expected sub-directories with metrics.json or job.json")
    return jobs


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
    blocks = [f"# Sweep {sweep_dir.resolve().name}", " ".join([count(jobs), *common(jobs)])]
    if drawn:
        blocks.append(f"![CE and mean FVU against {axis.name}]({drawn.name})")
    about = " or ".join(f"**{label}**" for label in told_of(jobs))
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
    rebuild = f"python -m scae.report {sweep_dir}"
    blocks.append(f"Rebuild this page, also when jobs are added: `{rebuild}`")
    write_sweep_pages(sweep_dir, jobs, rebuild)
    return write_text(sweep_dir / "sweep.md", "\n\n".join(blocks) + "\n")


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
