"""Encoders that are not linear, a decoder that is frozen, and a search, from the command line to what is reported."""

import json
from pathlib import Path

import pytest
import torch
from experiments import Finished, execute, finish, untimed, variation
from safetensors.torch import load_file

from scae.experiment.plan import Plan


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(tmp_path_factory)


@pytest.mark.parametrize("overrides", [(), ("sae.mlp.skip=false", "sae.mlp.depth=2", "sae=batchtopk")])
def test_hidden_layers_are_trained_stored_and_evaluated(
    run: Finished, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    """Without connections, and so without the stages and the arms that need some."""
    searched = ("evaluation.pursuit=gradient",) if not overrides else ()
    config = variation(run, tmp_path, "sae.encoder=mlp", "sae.mlp.width=8", *searched, *overrides)
    metrics, folder = execute(config), Plan(config).pretrain.folder
    note = json.loads((folder / "suite.json").read_text())
    assert {one["encoder"]["kind"] for one in note["dictionaries"].values()} == {"mlp"}
    stored = load_file(folder / "suite.safetensors")
    assert all(stored[f"{site}.encoder.V"].abs().max() > 0 for site in note["dictionaries"])
    assert 0 < metrics["plain/fvu_mean"] < 1
    assert metrics["plain/l0/0.mlp"] > 0
    assert not [key for key in metrics if key.startswith(("pruned", "connectivity"))]
    assert ("pursuit/fvu_mean" in metrics) == bool(searched)


def test_a_search_is_trained_with_where_the_target_is_read(run: Finished, tmp_path: Path) -> None:
    config = variation(run, tmp_path, "sae.encoder=pursuit", "sites.kinds=[attn]", "logger.every=1")
    found = execute(config)
    stored = load_file(Plan(config).pretrain.folder / "suite.safetensors")
    assert not [name for name in stored if ".encoder." in name]
    attention = [f"plain/fvu/{layer}.attn" for layer in (0, 1)]
    assert all(0 < found[key] < run.metrics[key] for key in attention), "the linear encoder's, as long in training"


def test_a_frozen_decoder_is_stored_as_it_began(run: Finished, tmp_path: Path) -> None:
    stored = []
    for steps in (8, 9):  # as many batches as a suite takes its start from, and one more
        frozen = ("pretrain.freeze=[decoder]", f"pretrain.steps={steps}", "stages=[model,pretrain]")
        config = variation(run, tmp_path / str(steps), *frozen)
        execute(config)
        stored.append(load_file(Plan(config).pretrain.folder / "suite.safetensors"))
    for name, value in stored[0].items():
        if ".encoder." in name:
            assert not torch.equal(value, stored[1][name]), name
        elif ".decoder." in name or ".reads." in name or ".writes." in name:
            assert torch.equal(value, stored[1][name]), name


def test_the_evaluation_says_what_a_search_would_leave(run: Finished, tmp_path: Path) -> None:
    """One more key of the same experiment: all but the evaluation is reused, and its other numbers stay."""
    metrics = execute(variation(run, tmp_path, "evaluation.twins=true", "evaluation.pursuit=gradient"))
    kept = untimed(run.metrics)
    assert {key: metrics[key] for key in kept} == kept
    sites = ("0.attn", "0.mlp", "1.attn", "1.mlp")
    new = {"pursuit/fvu_mean", *(f"pursuit/{name}/{site}" for name in ("fvu", "l0") for site in sites)}
    assert untimed(metrics).keys() - kept.keys() == new
    assert metrics["pursuit/fvu_mean"] < metrics["plain/fvu_mean"]
    assert "## Codes that are searched for" in (tmp_path / "out" / "report.md").read_text()
