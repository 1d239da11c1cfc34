"""The report of one run: `report.md`, its plots and its pages, beside the `metrics.json` that they are made from.

Training curves come from the histories in the artifacts; where these are gone, what was drawn from them stays.
"""

from pathlib import Path

from rich.table import Table

from scae.core.whole_files import write_text
from scae.report.alone import alone_sections
from scae.report.arms import present
from scae.report.arms_grid import arms_grid
from scae.report.connectivity import connectivity_sections
from scae.report.curves_figure import curves_figure
from scae.report.faithful import TITLE, faithful_grid, faithful_sections
from scae.report.files import Job, Metrics, ReportError, read_job
from scae.report.history import read_curves
from scae.report.pages import write_run_pages
from scae.report.places import Place, places
from scae.report.pursuit import pursuit_sections
from scae.report.remarks import bullets, remarks
from scae.report.run_figure import fvu_figure
from scae.report.stages_grid import FEATURES, costs_grid, trained_grid
from scae.report.words import CURVES, asked, ceiling, columns


def tables(metrics: Metrics) -> list[Table]:
    """For the terminal: of the arms and, where they were looked at, of the connections."""
    grids = [arms_grid(metrics), faithful_grid(metrics)]
    return [grid.rich() for grid in grids if grid is not None]


def write_run(run_dir: Path) -> Path:
    """Write the report of a finished run from its files; returns the page."""
    job = read_job(run_dir)
    if not job.metrics:
        raise ReportError(f"{run_dir} holds no metrics to report ({_state(job)})")
    grid = arms_grid(job.metrics)
    drawn = fvu_figure(job.metrics, run_dir / "fvu.png")
    blocks = [f"# Run {run_dir.resolve().name}", *asked(job), grid.markdown()]
    blocks += [bullets(noted)] if (noted := remarks(job.metrics)) else []
    blocks += [columns(grid)]
    blocks += ceiling(job.metrics)
    blocks += ["## The arms", "\n".join(f"- **{arm.label}**: {arm.meaning}." for arm in present(job.metrics))]
    if drawn:
        blocks += ["## FVU by site", f"![FVU by site and arm]({drawn.name})"]
    if searched := pursuit_sections(job.metrics):
        blocks += ["## Codes that are searched for", *searched]
    alone = alone_sections(job.metrics)
    if alone:
        blocks += ["## Each dictionary alone", *alone]
    connectivity = connectivity_sections(job.metrics)
    if connectivity:
        blocks += ["## Connections", *connectivity]
    if faithful := faithful_sections(job.metrics):
        blocks += [f"## {TITLE}", *faithful]
    blocks += _training(job)
    if (costs := costs_grid(job)) is not None:
        blocks += ["## Time and tokens", costs.markdown()]
    page = run_dir / "report.md"
    write_pages(run_dir)
    blocks += ["## Where things lie", "\n".join(map(_link, places(job)))]
    blocks.append(f"Rebuild this page: `{_again(run_dir)}`")
    return write_text(page, "\n\n".join(blocks) + "\n")


def write_pages(run_dir: Path) -> list[Path]:
    """Write the pages alone, also of a run that was analysed and not evaluated; returns them, `report.html` first."""
    return write_run_pages(read_job(run_dir), _again(run_dir))


def _again(run_dir: Path) -> str:
    return f"python -m scae.report {run_dir}"


def _state(job: Job) -> str:
    known = f"its status: {job.status}"
    return f"{known}; {job.error}" if job.error else known


def _training(job: Job) -> list[str]:
    """The curves, and what became of the features."""
    curves_figure(read_curves(job), job.directory / "curves.png")
    blocks = (
        [f"![Loss and dead features over training](curves.png)\n\n{CURVES}"]
        if (job.directory / "curves.png").is_file()
        else []
    )
    if (grid := trained_grid(job)) is not None:
        blocks.append(grid.markdown() + f"\n\n{FEATURES}")
    return ["## Training", *blocks] if blocks else []


def _link(place: Place) -> str:
    """A missing artifact is named as such."""
    link = f"[{place.name}]({place.href})"
    if place.stage:
        return f"- {place.stage}: {link}{'' if place.there else ' (no longer there)'}"
    return f"- {link}: {place.what}"
