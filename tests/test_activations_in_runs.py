"""Stored activations in an experiment, and text that is left out: what a run makes of them from end to end."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from experiments import Finished, copied_model, execute, finish, variation

from scae.artifacts.inventory import inventory, unused
from scae.core.failures import ArtifactError
from scae.data import TokenWindows
from scae.evaluation.unigram import unigram
from scae.experiment.plan import Plan
from scae.experiment.workshop import Workshop

STORED = "activations=stored"


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(tmp_path_factory)


@pytest.fixture
def beside(run: Finished, tmp_path: Path) -> Callable[..., Any]:
    """Runs beside the model and the tokens of the finished run, in artifacts of their own."""
    root = tmp_path / "artifacts"
    copied_model(run, root)

    def configured(name: str, *overrides: str) -> Any:
        return variation(run, tmp_path, f"paths.artifacts={root}", f"paths.output={tmp_path / name}", *overrides)

    return configured


def test_two_types_of_dictionary_share_a_store(
    beside: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        first = execute(beside("one", STORED))
        second = execute(beside("two", STORED, "sae=vanilla"))
    (store,) = [path for path in (tmp_path / "artifacts").glob("activations-*") if path.is_dir()]
    assert any("text tokens x 96 numbers of float32" in message for message in caplog.messages)
    assert sum(message.startswith("activations: done") for message in caplog.messages) == 1
    assert f"activations: reused from {store}" in caplog.messages
    assert first["tokens/activations"] == 12 * 4 * 32
    assert first["plain/fvu_mean"] < 1
    assert second["plain/fvu_mean"] != first["plain/fvu_mean"]
    note = json.loads((store / "artifact.json").read_text())
    assert note["facts"]["bytes"] == note["facts"]["stored"] * (96 * 4 + 12)
    entries = inventory(tmp_path / "artifacts", tmp_path)
    assert unused(entries) == []
    (entry,) = [entry for entry in entries if entry.path == store]
    assert len(entry.users) == 2


def test_a_damaged_store_is_refused_with_the_way_to_repair_it(beside: Callable[..., Any], tmp_path: Path) -> None:
    execute(beside("one", STORED, "stages=[pretrain]"))
    (store,) = [path for path in (tmp_path / "artifacts").glob("activations-*") if path.is_dir()]
    (store / "shard-0003.safetensors").unlink()
    again = ("pretrain.lr=1e-3", STORED, "stages=[pretrain]")
    with pytest.raises(ArtifactError, match=r"shard-0003.* is missing; .*force=\[activations\] makes it again"):
        execute(beside("two", *again))
    execute(beside("three", *again[:2], "stages=[activations,pretrain]", "force=[activations]"))
    assert (store / "shard-0003.safetensors").is_file()


def test_what_is_left_out_is_seen_by_no_loss_metric_or_score(run: Finished, beside: Callable[..., Any]) -> None:
    """The three most frequent tokens, and the first two of every window."""
    (tokens,) = [folder for folder in run.made if folder.name.startswith("tokens-")]
    counts = torch.bincount(TokenWindows.load(tokens / "train.safetensors").tokens.flatten(), minlength=300)
    counts[:3] = 0  # specials
    out_of_it = counts.topk(3).indices.sort().values
    config = beside("one", f"data.exclude_tokens={out_of_it.tolist()}", "data.skip_first=2")
    execute(config)
    workshop = Workshop(config, Plan(config))
    suite = workshop.suite(workshop.plan.pretrain.folder, workshop.plan.chosen)
    there = 0
    for traces in (workshop.heldout(), workshop.sample(512)):
        for trace in traces:
            out = ~trace.live
            assert out[:, :3].all()
            there += int(torch.isin(trace.tokens[:, 3:], out_of_it).sum())
            assert out[torch.isin(trace.tokens, out_of_it)].all()
            assert not torch.isin(trace.targets, out_of_it).any()
            for mode in ("plain", "pruned"):
                made = suite(trace, mode=mode)
                for site, code in made.codes.items():
                    assert trace.live.flatten()[code.row].all()
                    assert torch.equal(made.outputs[site.module][out], trace.outputs[site.module][out])
    assert there > 50
    found = unigram(workshop.windows[0], 300)
    assert torch.equal(found[out_of_it], found.min().expand(3))
