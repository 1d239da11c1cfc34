"""The table of stages: its rows hang together, and a stage more is a row and a file."""

import importlib
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from experiments import Finished, execute, finish, variation

from scae.config import STAGES
from scae.experiment import table
from scae.experiment.execution import Execution
from scae.experiment.plan import Plan
from scae.experiment.results import collect_metrics, describe_run
from scae.experiment.table import Piece, Row, made_from, needed_for


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(tmp_path_factory)


def names(rows: list[Row]) -> list[str]:
    return [row.name for row in rows]


def test_the_configuration_and_the_table_have_the_same_stages() -> None:
    assert tuple(row.name for row in table.TABLE) == STAGES


def test_a_stage_comes_after_what_it_needs_and_has_a_file() -> None:
    for number, row in enumerate(table.TABLE):
        assert set(row.needs) <= set(STAGES[:number])
        assert importlib.util.find_spec(f"scae.experiment.stages.{row.name}") is not None
        assert callable(row.work())


def test_what_is_needed_and_what_is_made_again() -> None:
    assert names(needed_for(["select"])) == ["model", "activations", "pretrain", "select"]
    assert names(needed_for(["pretrain", "evaluate", "analyze"])) == list(STAGES)
    assert names(needed_for(["analyze"])) == [stage for stage in STAGES if stage != "evaluate"]
    assert names(made_from(["select"])) == ["select", "finetune", "evaluate", "analyze"]
    assert names(made_from(["evaluate"])) == ["evaluate"]
    assert names(made_from([])) == []


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stage more, beside the evaluation: made from the finetuned suite alone."""
    made: list[str] = []

    def pieces(plan: Plan) -> list[Piece]:
        suite = plan.finetune(plan.pruned)
        artifact = replace(suite, kind="count", made_from={"of": "features"}, upstream=(suite.name,))
        return [Piece(label="count", artifact=artifact, arguments=(suite.folder,), counted="count")]

    def make(workshop: Any, folder: Path, of: Path) -> dict[str, Any]:
        made.append("count")
        features = sum(workshop.suite(of).layout.sizes)
        (folder / "count.json").write_text(json.dumps(features))
        return {"tokens": 0, "counts": {"count/features": float(features)}}

    row = Row(
        name="count",
        needs=("finetune",),
        pieces=pieces,
        together=False,
        resumes=False,
        reports="counts",
        noted=True,
    )
    monkeypatch.setitem(sys.modules, "scae.experiment.stages.count", SimpleNamespace(make=make))
    monkeypatch.setattr(table, "TABLE", (*table.TABLE, row))
    return made


def test_a_stage_more(run: Finished, tmp_path: Path, counting: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """It is planned, made, reported, reused, and made again with what it is made from; the others do not notice it."""
    config = variation(run, tmp_path, "evaluation.twins=true")
    before = execute(config)
    assert counting == []
    asked = Plan(config.model_copy(update={"stages": ["count"]}))
    assert names(needed_for(["count"])) == ["model", "activations", "pretrain", "select", "finetune", "count"]
    assert names(made_from(["finetune"])) == ["finetune", "evaluate", "analyze", "count"]
    with caplog.at_level(logging.INFO):
        Execution(asked).up_to(["count"])
        Execution(asked).up_to(["count"])
    assert counting == ["count"]
    assert [line.split(" ")[:2] for line in caplog.messages if line.startswith("count")] == [
        ["count:", "done"],
        ["count:", "reused"],
    ]
    every = Plan(config.model_copy(update={"stages": [*config.stages, "count"]}))
    metrics = collect_metrics(every)
    new = {"count/features", "time/count", "tokens/count"}
    assert metrics.keys() - before.keys() == new
    assert {key: metrics[key] for key in before} == before
    stages = describe_run(every, tmp_path)["stages"]
    assert list(stages) == ["pretrain", "select", "finetune", "evaluate", "analyze", "count"]
    assert (tmp_path / stages["count"] / "count.json").is_file()
