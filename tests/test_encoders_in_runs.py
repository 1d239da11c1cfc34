"""Encoders that are not linear, a decoder that is frozen, and a search, from the command line to what is stored."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_experiment import Finished, execute, finish, variation

from scae.evaluation import Arm, evaluate
from scae.experiment.plan import Plan
from scae.experiment.workshop import Workshop

PRETRAIN = "stages=[model,pretrain]"


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(tmp_path_factory)


def pretrained(run: Finished, folder: Path, *overrides: str) -> Plan:
    config = variation(run, folder, PRETRAIN, *overrides)
    execute(config)
    return Plan(config)


@pytest.mark.parametrize("overrides", [(), ("sae.mlp.skip=false", "sae.mlp.depth=2", "sae=batchtopk")])
def test_hidden_layers_are_trained_stored_and_run(run: Finished, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    plan = pretrained(run, tmp_path, "sae.encoder=mlp", "sae.mlp.width=8", *overrides)
    note = json.loads((plan.pretrain.folder / "suite.json").read_text())
    assert {one["encoder"]["kind"] for one in note["dictionaries"].values()} == {"mlp"}
    workshop = Workshop(plan.config, plan)
    suite: Any = workshop.suite(plan.pretrain.folder)
    assert all(suite[site].encoder.V.abs().max() > 0 for site in suite.sites)
    metrics = evaluate(workshop.lm, [Arm("plain", suite, "plain")], workshop.heldout)
    assert 0 < metrics["plain/fvu_mean"] < 1
    assert metrics["plain/l0/0.mlp"] > 0


def test_a_search_is_trained_with_where_the_target_is_read(run: Finished, tmp_path: Path) -> None:
    plan = pretrained(run, tmp_path, "sae.encoder=pursuit", "sites.kinds=[attn]", "logger.every=1")
    stored = load_file(plan.pretrain.folder / "suite.safetensors")
    assert not [name for name in stored if ".encoder." in name]
    linear = pretrained(run, tmp_path / "linear", "sites.kinds=[attn]")
    fvu = []
    for one in (plan, linear):
        workshop = Workshop(one.config, one)
        arm = Arm("plain", workshop.suite(one.pretrain.folder), "plain")
        fvu.append(evaluate(workshop.lm, [arm], workshop.heldout)["plain/fvu_mean"])
    assert 0 < fvu[0] < fvu[1]


def test_a_frozen_decoder_is_stored_as_it_began(run: Finished, tmp_path: Path) -> None:
    frozen = "pretrain.freeze=[decoder]"
    plans = [pretrained(run, tmp_path / str(steps), frozen, f"pretrain.steps={steps}") for steps in (8, 9)]
    one, other = (load_file(plan.pretrain.folder / "suite.safetensors") for plan in plans)
    for name, value in one.items():
        if ".encoder." in name:
            assert not torch.equal(value, other[name]), name
        elif ".decoder." in name or ".reads." in name or ".writes." in name:
            assert torch.equal(value, other[name]), name


def test_the_evaluation_says_what_a_search_would_leave(run: Finished, tmp_path: Path) -> None:
    """One more key of the same experiment: all but the evaluation is reused, and its other numbers stay."""
    metrics = execute(variation(run, tmp_path, "evaluation.twins=true", "evaluation.pursuit=gradient"))
    kept = {key: value for key, value in run.metrics.items() if not key.startswith("time/")}
    assert {key: metrics[key] for key in kept} == kept
    new = {key for key in metrics.keys() - run.metrics.keys() if not key.startswith("time/")}
    sites = ("0.attn", "0.mlp", "1.attn", "1.mlp")
    assert new == {"pursuit/fvu_mean", *(f"pursuit/{name}/{site}" for name in ("fvu", "l0") for site in sites)}
    assert metrics["pursuit/fvu_mean"] < metrics["plain/fvu_mean"]
    assert "## Codes that are searched for" in next(tmp_path.rglob("report.md")).read_text()
