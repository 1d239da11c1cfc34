"""What `report.html` shows of a sweep."""

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any
from urllib.parse import quote

from scae.report.arms import present
from scae.report.files import Job
from scae.report.pages import blocks
from scae.report.pages.blocks import Block
from scae.report.remarks import remarks_by_job
from scae.report.sweep_grids import REASONS, arm_grid, common, count, jobs_grid
from scae.report.sweep_jobs import ALL, Axis, axis_of, ordered, panels_of

TITLES = {"ce": "Cross-entropy, nats per token", "fvu_mean": "Mean FVU over sites"}


def sweep_overview(jobs: Sequence[Job], name: str, rebuild: str) -> dict[str, Any]:
    """The content of the page. rebuild: the command that makes it."""
    found = [section for section in _sections(jobs, rebuild) if section is not None]
    return {"kind": "sweep", "name": name, "asked": [count(jobs), *common(jobs)], "pages": [], "sections": found}


def _sections(jobs: Sequence[Job], rebuild: str) -> Iterator[Block | None]:
    done = [job for job in jobs if job.metrics]
    axis = axis_of(jobs)
    plots = [_row(title, members, axis) for title, members in panels_of(done, axis).items()] if done else []
    yield blocks.section("plots", f"Against {axis.name}", plots)
    table, noted = blocks.table(jobs_grid(jobs)), blocks.items(remarks_by_job(jobs), notice=True)
    yield blocks.section("jobs", "Jobs", [table, noted, blocks.links(_links(jobs))])
    if done:
        yield blocks.section("ce", "CE by arm", [blocks.table(arm_grid(jobs, "ce", ""))])
        yield blocks.section("fvu", "Mean FVU by arm", [blocks.table(arm_grid(jobs, "fvu_mean", ""))])
        arms = present(key for job in done for key in job.metrics)
        yield blocks.section("arms", "The arms", [blocks.items(f"`{arm.label}`: {arm.meaning}." for arm in arms)])
    places = blocks.links([("sweep.md", "sweep.md", "the same as text"), ("sweep.json", "sweep.json", "all numbers")])
    again = blocks.text(f"Rebuild this page, also when jobs are added: `{rebuild}`", faint=True)
    yield blocks.section("places", "Where things lie", [places, again])


def _links(jobs: Sequence[Job]) -> list[tuple[str, str, str]]:
    """A job's own page where there is one, and what became of the others."""
    found = []
    for job in jobs:
        told = " ".join(f"{key}={value}" for key, value in job.overrides.items())
        page = next((name for name in ("report.html", "report.md") if (job.directory / name).is_file()), "")
        trouble = "" if job.status == "completed" else f" ({job.status}: {job.error or REASONS.get(job.status, '')})"
        found.append((f"Job {job.name}", f"{quote(job.name)}/{page}", told + trouble))
    return found


def _row(title: str, jobs: Sequence[Job], axis: Axis) -> Block | None:
    more = f", {title}" if title else ""
    return blocks.row([_plot(words + more, jobs, axis, metric) for metric, words in TITLES.items()])


def _plot(title: str, jobs: Sequence[Job], axis: Axis, metric: str) -> Block | None:
    """The mean of the jobs at each place. Places stand in their order: C is swept in factors, 0 and all at the ends."""
    places = ordered({place for job in jobs if (place := axis.place(job)) is not None})
    lines = []
    for arm in present(key for job in jobs for key in job.metrics):
        key = f"{arm.key}/{metric}"
        at = [[job.metrics[key] for job in jobs if axis.place(job) == place and key in job.metrics] for place in places]
        lines.append(blocks.arm_line(arm, [fmean(values) if values else None for values in at]))
    if metric == "ce":
        models = [job.metrics["lm/ce"] for job in jobs if "lm/ce" in job.metrics]
        if models:
            lines.append(blocks.line("language model", [fmean(models)] * len(places), dotted=True))
    names = [_named(place) for place in places]
    about = "connections per feature, C" if axis.numeric else axis.name
    return blocks.plot(title, range(len(places)), lines, names=names, x_title=about, zero=metric == "fvu_mean")


def _named(place: float | str) -> str:
    if isinstance(place, str):
        return place.replace("\n", ", ")
    return "all" if place == ALL else f"{place:g}"
