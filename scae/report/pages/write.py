"""Writing the pages of a run or of a sweep beside its Markdown."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from scae.core.whole_files import write_text
from scae.report.analysis_files import ANALYSIS, Analysis, AnalysisError
from scae.report.files import Job, ReportError, read_json
from scae.report.pages.features import feature_files
from scae.report.pages.folder import PAGES, copy_assets, page, remove_stale, write_data
from scae.report.pages.overview import how_to_analyse, run_overview
from scae.report.pages.scripts import script
from scae.report.pages.sweep_overview import sweep_overview

REPORT, FEATURES, LABELS = "report.html", "features.html", "labels.json"
LABELS_FORMAT = 1


def write_run_pages(job: Job, rebuild: str) -> list[Path]:
    """Write `report.html`, and `features.html` where the run has been analysed; returns them. rebuild: the command
    that makes them again."""
    directory = job.directory
    analysis, problem = _analysis(job)
    labels = read_labels(directory / LABELS) if analysis is not None else {}
    overview = run_overview(job, analysis, problem, rebuild)
    files = [("report.js", script("report", overview))]
    name = str(overview["name"])
    of_features = feature_files(analysis, labels, name) if analysis is not None else ()
    data = write_data(directory, chain(files, of_features))
    written = _write(directory, [REPORT, FEATURES] if analysis is not None else [REPORT], data, name)
    if analysis is None:
        (directory / FEATURES).unlink(missing_ok=True)
    remove_stale(directory, data)
    return written


def write_sweep_pages(directory: Path, jobs: Sequence[Job], rebuild: str) -> list[Path]:
    """Write `report.html` of a sweep; returns it in a list."""
    name = directory.resolve().name
    data = write_data(directory, [("report.js", script("report", sweep_overview(jobs, name, rebuild)))])
    written = _write(directory, [REPORT], data, name)
    remove_stale(directory, data)
    return written


def _write(directory: Path, names: Sequence[str], data: str, title: str) -> list[Path]:
    copy_assets(directory / PAGES / "assets")
    fields = {"title": title, "data": data, "assets": f"{PAGES}/assets"}
    return [write_text(directory / name, page(name, fields)) for name in names]


def _analysis(job: Job) -> tuple[Analysis | None, str]:
    """What the stage `analyze` wrote, or why there is nothing to show of it."""
    folder = job.stages.get("analyze")
    if folder is None or not (folder / ANALYSIS).is_file():
        return None, how_to_analyse(job)
    try:
        analysis = Analysis(folder)
        for site in analysis.sites:
            analysis.features(site)
    except AnalysisError as error:
        return None, f"The analysis of this run cannot be read: {error}"
    return analysis, ""


def read_labels(path: Path) -> dict[str, dict[str, Any]]:
    """`labels.json`, what `python -m scae.label` writes: {"format": 1, "labels": {"2.mlp/17": {"label": ...}}}."""
    if not path.is_file():
        return {}
    content = read_json(path)
    found = content.get("labels")
    if not isinstance(found, dict) or content.get("format") != LABELS_FORMAT:
        raise ReportError(f'{path} holds no labels of format {LABELS_FORMAT}: {{"format": 1, "labels": {{...}}}}')
    return {str(name): label for name, label in found.items() if isinstance(label, dict)}
