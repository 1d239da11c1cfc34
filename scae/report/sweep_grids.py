"""The tables of a sweep, and its jobs in words."""

from collections.abc import Sequence

from scae.report.arms import present, result
from scae.report.files import Job
from scae.report.grid import Grid, Row, duration, number
from scae.report.sweep_jobs import varying

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
    title = f"{' and '.join(told_of(jobs))}, by job"
    return Grid(headers=headers, rows=tuple(rows), left=2 + len(keys), title=title).without_empty_columns()


def told_of(jobs: Sequence[Job]) -> list[str]:
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


def count(jobs: Sequence[Job]) -> str:
    """How many of the jobs there are numbers of."""
    done = sum(bool(job.metrics) for job in jobs)
    if not done:
        return f"None of the {len(jobs)} jobs has finished, so there is nothing to plot yet."
    return f"{done} of {len(jobs)} jobs have metrics."


def common(jobs: Sequence[Job]) -> list[str]:
    """What was asked of all of them, if anything."""
    keys = varying(jobs)
    shared = [f"{key}={value}" for key, value in jobs[0].overrides.items() if key not in keys]
    return [f"All with `{' '.join(shared)}`."] if shared else []
