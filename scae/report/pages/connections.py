"""Which features read which: numbers, degrees, and where the inputs of each site come from."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from scae.report.analysis_files import Analysis, Array
from scae.report.connectivity import LARGEST_MATRIX, entries, scalars_grid, sites_grid
from scae.report.files import Job, Metrics, natural
from scae.report.pages import blocks
from scae.report.pages.blocks import Block

FILE, HEADER = "connections.safetensors", "scae.connections"
BINS = 24


def connection_blocks(job: Job, analysis: Analysis | None) -> list[Block | None]:
    """Nothing for a suite that is not pruned."""
    metrics = job.metrics
    scalars, by_site = scalars_grid(metrics), sites_grid(metrics)
    incoming, outgoing = _degrees(job, analysis)
    found: list[Block | None] = [
        blocks.row([_histogram("Inputs of a feature", incoming), _histogram("Outputs of a feature", outgoing)]),
        *_shares(metrics),
        blocks.table(by_site, "By site"),
        None if scalars is None else blocks.folded("Numbers of the whole suite", [blocks.table(scalars)]),
    ]
    return [block for block in found if block is not None]


def _shares(metrics: Metrics) -> Iterator[Block | None]:
    """Tables of what each site reads from each."""
    pairs = entries(metrics, 3)
    for name in dict.fromkeys(path[0] for path in pairs):
        values = {path[1:]: value for path, value in pairs.items() if path[0] == name}
        down = sorted({one for one, _ in values}, key=natural)
        across = sorted({one for _, one in values}, key=natural)
        if len(down) > LARGEST_MATRIX:
            yield blocks.text(f"`connectivity/{name}/<down>/<up>` for {len(down)} downstream sites: in `metrics.json`.")
            continue
        cells = [[values.get((one, other)) for other in across] for one in down]
        title = "Share of the inputs of a site (row) that come from each site (column)" if name == "from" else name
        yield blocks.heat(title, down, across, cells, corner="reads")


def _histogram(title: str, degrees: list[Array]) -> Block | None:
    """degrees: one array a site."""
    found = np.concatenate(degrees) if degrees else np.zeros(0, np.int64)
    if not len(found) or found.max() == 0:
        return None
    width = max(1, int(np.ceil((found.max() + 1) / BINS)))
    edges = np.arange(0, found.max() + width + 1, width)
    counts = np.histogram(found, edges)[0].tolist()
    return blocks.bars(title, edges.tolist(), {"features": counts}, x_title="connections")


def _degrees(job: Job, analysis: Analysis | None) -> tuple[list[Array], list[Array]]:
    """In and out, of the sites that read at all, and of those that are read."""
    if analysis is not None:
        tables = [analysis.features(site) for site in analysis.sites]
        crows = ([one[name] for one in tables if name in one] for name in ("inputs_crow", "outputs_crow"))
        incoming, outgoing = ([np.diff(crow) for crow in side if crow[-1] > 0] for side in crows)
        return incoming, outgoing
    for stage in ("finetune", "select"):
        if stage in job.stages and (path := job.stages[stage] / FILE).is_file():
            return _degrees_of(path)
    return [], []


def _degrees_of(path: Path) -> tuple[list[Array], list[Array]]:
    """Of a file of connections (`scae.connections`); nothing where it is none."""
    try:
        with safe_open(path, framework="numpy") as file:
            header: dict[str, Any] = json.loads((file.metadata() or {}).get(HEADER, "{}"))
            if header.get("complete", True):
                return [], []
            crows = [file.get_tensor(f"{site}.crow") for site in header["sites"]]
            ups = np.concatenate([file.get_tensor(f"{site}.up") for site in header["sites"]])
            ends = np.cumsum(header["sizes"])
    except (SafetensorError, OSError, ValueError, KeyError):
        return [], []
    incoming = [np.diff(crow) for crow in crows]
    outgoing = np.split(np.bincount(ups, minlength=int(ends[-1])), ends[:-1])
    return [one for one in incoming if one.any()], [one for one in outgoing if one.any()]
