"""What a run writes into its directory once its stages are done: numbers, where the artifacts lie, a report."""

import json
import os
from pathlib import Path
from typing import Any

from scae.config import TinyModel
from scae.core.whole_files import write_text
from scae.experiment.plan import Plan
from scae.experiment.table import needed_for
from scae.report import print_remarks, remarks, tables, terminal, write_pages, write_run


def write_results(plan: Plan) -> dict[str, float]:
    """metrics.json, run.json, report.md and a picture in the run directory; prints the table. Where arms were not
    compared there is nothing to report on: numbers, places, and pages of what an analysis has found."""
    output = Path(plan.config.paths.output)
    metrics = collect_metrics(plan)
    for name, content in (("metrics.json", metrics), ("run.json", describe_run(plan, output))):
        write_text(output / name, json.dumps(content, indent=2) + "\n")
    console = terminal()
    if "evaluate" in plan.config.stages:
        report = write_run(output)
        console.print(*tables(metrics))
        print_remarks(console, remarks(metrics))
        console.print(f"report   {report}\npages    {output / 'report.html'}")
    elif "analyze" in plan.config.stages:
        console.print(f"pages    {write_pages(output)[0]}")
    console.print(f"metrics  {output / 'metrics.json'}\nsuite    {plan.suite.folder}")
    return metrics


def collect_metrics(plan: Plan) -> dict[str, float]:
    """What the stages report, and what each of them took."""
    reported: dict[str, float] = {}
    costs: dict[str, float] = {}
    for row in needed_for(plan.config.stages):
        for number, piece in enumerate(row.pieces(plan)):
            facts = piece.artifact.facts()
            if number == 0 and row.reports is not None:
                reported |= facts.get(row.reports, {})
            if piece.counted is not None:
                for what, key in (("time", "seconds"), ("tokens", "tokens")):
                    name = f"{what}/{piece.counted}"
                    costs[name] = costs.get(name, 0) + facts[key]
    return reported | costs


def describe_run(plan: Plan, output: Path) -> dict[str, Any]:
    """Where the artifacts of a run lie, relative to the run directory, and what its windows were."""

    def relative(path: Path) -> str:
        return os.path.relpath(path.resolve(), output.resolve())

    model = plan.config.model
    if isinstance(model, TinyModel):
        assert plan.model is not None
        source: dict[str, Any] = {"path": relative(plan.model.folder), "revision": None, "quantize": None}
    elif model.kind == "local":
        source = {"path": relative(Path(model.path)), "revision": None, "quantize": model.quantize}
    else:
        source = {"name": model.name, "revision": model.revision, "quantize": model.quantize}
    noted = [(row.name, row.pieces(plan)) for row in needed_for(plan.config.stages) if row.noted]
    places = {name: pieces[0].artifact.folder for name, pieces in noted if pieces}
    data = plan.config.data
    return {
        "data": {"separator": data.separator, "attend_across": data.attend_across},
        "model": source | {"dtype": model.dtype, "prepend_bos": data.prepend_bos},
        "stages": {stage: relative(folder) for stage, folder in places.items()},
    }
