"""The stage `analyze` in whole experiments, from the command to the opened run."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from experiments import SITES, Finished, alone, execute, finish, variation
from test_runs import moved, record

from scae.experiment.opened import open_run
from scae.experiment.plan import Plan

_ = alone, moved  # fixtures of these tests, too


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(tmp_path_factory)


def test_it_says_of_the_pruned_suite_what_the_evaluation_says(run: Finished) -> None:
    metrics, plan = run.metrics, Plan(run.config)
    summary = json.loads((plan.analyze.folder / "analysis.json").read_text())
    sizes = {note["site"]: note["features"] for note in summary["sites"]}
    for site in SITES:
        assert metrics[f"analysis/pruned/fvu/{site}"] == pytest.approx(metrics[f"pruned/fvu/{site}"], rel=1e-6)
        assert metrics[f"analysis/pruned/l0/{site}"] == pytest.approx(metrics[f"pruned/l0/{site}"])
        dead = metrics[f"analysis/pruned/dead/{site}"]
        assert dead == pytest.approx(metrics[f"pruned/dead/{site}"] * sizes[site])
        kinds = [metrics[f"analysis/pruned/{kind}/{site}"] for kind in ("never_fired", "plain_only")]
        assert dead == sum(kinds), "what does not fire in the pruned pass fires in the plain one alone, or never"
    assert summary["ablation"]["clean"] == pytest.approx(metrics["lm/ce"], rel=1e-6)
    assert metrics["tokens/analyze"] == summary["n_tokens"]
    assert summary["n_tokens"] <= run.config.evaluation.tokens


def test_connections_are_tried_where_that_is_asked_for(run: Finished, tmp_path: Path) -> None:
    assert not any(key.startswith(("analysis/faithfulness", "analysis/scalar")) for key in run.metrics)
    metrics = execute(variation(run, tmp_path, "analysis.edges=10"))
    for twin in ("", "_random"):
        assert -1 <= metrics[f"analysis/faithfulness{twin}/rank"] <= 1
        assert metrics[f"analysis/scalar{twin}/log_area"] > 0
    others = {key: value for key, value in metrics.items() if key.startswith("analysis/") and key in run.metrics}
    assert others == {key: value for key, value in run.metrics.items() if key.startswith("analysis/")}


def test_an_opened_run_has_its_analysis(run: Finished, moved: Path) -> None:
    record(moved, run, cwd=run.folder)
    opened = open_run(moved)
    analysis = opened.analysis
    assert analysis.sites == SITES
    live = analysis.tokens["live"].nonzero()[0]
    token = int(live[len(live) // 2])
    active = analysis.features_at(token)
    assert active
    for one in active:
        assert dict(analysis.tokens_of(one.site, one.feature))[token] == one.value
    site, feature = active[0].site, active[0].feature
    inputs = analysis.feature(site, feature).inputs
    assert inputs is not None
    suite_inputs = {(str(one.site), one.feature): one.weight for one in opened.suite.inputs(site, feature)}
    assert {(edge.site, edge.feature) for edge in inputs} == suite_inputs.keys()
    for edge in inputs:
        assert edge.weight == pytest.approx(suite_inputs[edge.site, edge.feature], rel=1e-4, abs=1e-6)
    ids = analysis.tokens["id"].reshape(-1, analysis.context_size)
    traces = list(opened.heldout())
    assert sum(len(trace.tokens) for trace in traces) == len(ids)
    assert traces[0].tokens.tolist() == ids[: len(traces[0].tokens)].tolist()


def test_the_stage_alone_leaves_a_run_that_can_be_opened(run: Finished, tmp_path: Path) -> None:
    config = variation(run, tmp_path, "stages=[analyze]", "analysis.tokens=200", "analysis.examples=3")
    metrics = execute(config)
    assert metrics["analysis/pruned/l0/0.attn"] > 0
    assert "pruned/ce" not in metrics, "nothing is compared"
    note = json.loads((tmp_path / "out" / "run.json").read_text())
    assert list(note["stages"]) == ["pretrain", "select", "finetune", "analyze"]
    analysis = open_run(tmp_path / "out").analysis
    assert analysis.n_tokens <= 200
    assert analysis.features("0.mlp").shapes["top"][2] == 3


def test_a_run_without_it_says_what_makes_one(run: Finished, tmp_path: Path) -> None:
    execute(variation(run, tmp_path, "stages=[evaluate]"))
    with pytest.raises(ValueError, match=r"was not analyzed: stages=\[analyze\] does that"):
        _ = open_run(tmp_path / "out").analysis


def test_what_lies_in_folders_is_missed_too(run: Finished) -> None:
    artifact = Plan(run.config).analyze
    note: dict[str, Any] = json.loads((artifact.folder / "artifact.json").read_text())
    assert {"codes/pruned/1.mlp.safetensors", "features/0.attn.safetensors", "analysis.json"} <= note["files"].keys()
    assert artifact.damage() is None
    path = artifact.folder / "codes" / "plain" / "0.mlp.safetensors"
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-1])
        assert "0.mlp.safetensors is damaged" in str(artifact.damage())
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize(
    "changes",
    [
        ("sae=batchtopk", "sae.k=4"),
        ("sites.kinds=[attn,clt]",),
        ("sites.embed=true", "sites.unembed=true"),
        ("connectivity=all",),
        ("sites=resid",),
    ],
    ids=lambda changes: " ".join(changes),
)
def test_experiments_of_other_shapes(run: Finished, tmp_path: Path, changes: tuple[str, ...]) -> None:
    short = ("pretrain.steps=3", "finetune.steps=2")
    config = variation(run, tmp_path, *changes, *short)
    metrics = execute(config)
    assert all(math.isfinite(value) for value in metrics.values())
    analysis = open_run(tmp_path / "out").analysis
    mode = analysis.passes[-1]
    assert mode == ("plain" if changes == ("sites=resid",) else "pruned")
    for site in analysis.sites:
        assert metrics[f"analysis/{mode}/l0/{site}"] == pytest.approx(metrics[f"{mode}/l0/{site}"], rel=1e-3)
        assert metrics[f"analysis/{mode}/fvu/{site}"] == pytest.approx(metrics[f"{mode}/fvu/{site}"], rel=1e-3)
        feature = analysis.feature(site, 0)
        assert (feature.inputs is None) == (changes in (("connectivity=all",), ("sites=resid",)))
