"""The report of one run: `report.md` and its plots, beside the `metrics.json` that they are made from.

Training curves come from the histories in the artifacts; where these are gone, what was drawn from them stays.
"""

import os
from pathlib import Path

from rich.table import Table

from scae.core.whole_files import write_text
from scae.report.alone import alone_sections
from scae.report.arms import present
from scae.report.arms_grid import arms_grid
from scae.report.connectivity import connectivity_sections
from scae.report.curves_figure import curves_figure
from scae.report.files import Job, Metrics, ReportError, read_job
from scae.report.grid import MISSING, Grid, Row, duration, number
from scae.report.history import read_curves
from scae.report.pursuit import pursuit_sections
from scae.report.remarks import bullets, remarks
from scae.report.run_figure import fvu_figure

FILES = {
    "report.md": "this page",
    "fvu.png": "FVU by site and arm",
    "curves.png": "loss, its terms and dead features over the steps of training",
    "metrics.json": "every number of this page and more, flat keys",
    "job.json": "the command's overrides and how it ended",
    "run.json": "the artifacts of the stages",
    ".hydra/config.yaml": "the whole config",
}
COLUMNS = (
    "CE in nats per token, on held-out text: no BOS, separator or padding, and nothing foretold from a BOS alone, for "
    "the model as for every arm. ΔCE: above the model. CE rec.: share of the way from zero ablation to the model. KL: "
    "model against arm. top-1: the arm's likeliest token is the model's. FVU: fraction of variance unexplained over "
    "the whole held-out text, mean and largest over sites. L0: features active per token, at thresholds (BatchTopK) "
    "learned in the arm's own pass, and dead: features that never fired in it, mean over sites."
)
CONNECTED = " conn. rec.: share of the way from no connections (finetuned) to the model."
CURVES = (
    "Terms before weighting. Dotted: on training text that no step draws, at thresholds of inference (`validation`); "
    "dead features are revived in training only, so `auxk` is no part of that loss."
)
FEATURES = (
    "Shares of the features, mean over sites. Dead: silent for the last `sae.auxk.dead_after` tokens of training, that "
    "of earlier stages included."
)
CEILING = (
    "Beside its ceiling, the suite finetuned with every connection, the pruned suite has {ce:+.3f} nats of "
    "cross-entropy and {fvu:+.3f} of mean FVU."
)


def arms_table(metrics: Metrics) -> Table:
    """The one table of arms, for the terminal."""
    return arms_grid(metrics).rich()


def write_run(run_dir: Path) -> Path:
    """Write the report of a finished run from its files; returns the page."""
    job = read_job(run_dir)
    if not job.metrics:
        raise ReportError(f"{run_dir} holds no metrics to report ({_state(job)})")
    grid = arms_grid(job.metrics)
    drawn = fvu_figure(job.metrics, run_dir / "fvu.png")
    blocks = [f"# Run {run_dir.resolve().name}", *_command(job), grid.markdown()]
    blocks += [bullets(noted)] if (noted := remarks(job.metrics)) else []
    blocks += [_explain(grid)]
    blocks += _ceiling(job.metrics)
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
    blocks += _training(job)
    costs = _costs(job)
    if costs:
        blocks += ["## Time and tokens", costs]
    page = run_dir / "report.md"
    blocks += ["## Where things lie", _places(job), f"Rebuild this page: `python -m scae.report {run_dir}`"]
    return write_text(page, "\n\n".join(blocks) + "\n")


def _state(job: Job) -> str:
    known = f"its status: {job.status}"
    return f"{known}; {job.error}" if job.error else known


def _command(job: Job) -> list[str]:
    """What was asked for, and what else was chosen."""
    lines = []
    if job.overrides:
        lines.append(f"Overrides: `{' '.join(f'{key}={value}' for key, value in job.overrides.items())}`")
    chosen = {group: option for group, option in job.choices.items() if option not in (None, "None", "null")}
    groups = {group: option for group, option in chosen.items() if not group.startswith("hydra/")}
    if groups:
        lines.append("Config: " + ", ".join(f"{group} = `{option}`" for group, option in groups.items()))
    if job.status == "failed":
        lines.append(f"**This run failed after its evaluation: {job.error or 'it left no message'}**")
    return lines


def _explain(grid: Grid) -> str:
    return COLUMNS + (CONNECTED if any(header.startswith("conn.") for header in grid.headers) else "")


def _ceiling(metrics: Metrics) -> list[str]:
    """What the choice of connections costs, where the dense twin ran."""
    if "pruned/above_dense" not in metrics:
        return []
    fvu = metrics["pruned/fvu_mean"] - metrics["dense_finetuned/fvu_mean"]
    return [CEILING.format(ce=metrics["pruned/above_dense"], fvu=fvu)]


def _training(job: Job) -> list[str]:
    """The curves, and what became of the features."""
    curves_figure(read_curves(job), job.directory / "curves.png")
    blocks = [f"![Loss and dead features over training](curves.png)\n\n{CURVES}"] if _is(job, "curves.png") else []
    keys = [key.split("/", 3) for key in job.metrics if key.startswith("features/")]
    rows = []
    for stage in dict.fromkeys(key[1] for key in keys):
        means = []
        for what in ("never_fired", "dead"):
            shares = [job.metrics["/".join(key)] for key in keys if key[1:3] == [stage, what]]
            means.append(number(sum(shares) / len(shares) if shares else None, 1, scale=100.0))
        rows.append(Row(cells=(stage, *means)))
    if rows:
        headers = ("stage", "never fired in it %", "dead at its end %")
        blocks.append(Grid(headers=headers, rows=tuple(rows)).markdown() + f"\n\n{FEATURES}")
    return ["## Training", *blocks] if blocks else []


def _costs(job: Job) -> str:
    """A row a stage."""
    names = [key.partition("/")[2] for key in job.metrics if key.startswith(("time/", "tokens/"))]
    stages = list(dict.fromkeys(names))
    if not stages:
        return ""
    rows = []
    for stage in stages:
        seconds, tokens = job.metrics.get(f"time/{stage}"), job.metrics.get(f"tokens/{stage}")
        speed = tokens / seconds if tokens is not None and seconds else None
        rows.append(Row(cells=(stage, duration(seconds), number(tokens, 0), number(speed, 0))))
    total = sum(value for key, value in job.metrics.items() if key.startswith("time/"))
    rows.append(Row(cells=("all", duration(total), MISSING, MISSING), strong=True))
    grid = Grid(headers=("stage", "time", "tokens", "tokens/s"), rows=tuple(rows))
    return grid.without_empty_columns().markdown()


def _places(job: Job) -> str:
    """A link to every file and artifact; a missing artifact is named as such."""
    written = [f"- [{name}]({name}): {what}" for name, what in FILES.items() if name == "report.md" or _is(job, name)]
    for stage, path in job.stages.items():
        link = Path(os.path.relpath(path.resolve(), job.directory.resolve())).as_posix()
        note = "" if path.exists() else " (no longer there)"
        written.append(f"- {stage}: [{path.name}]({link}){note}")
    return "\n".join(written)


def _is(job: Job, name: str) -> bool:
    return (job.directory / name).is_file()
