"""Documents of a corpus on their way through an experiment: their borders, and what is said about their text."""

import json
import logging
import random
from pathlib import Path

import pytest
import torch
from experiments import Finished, configure, execute, finish
from safetensors.torch import load_file

from scae.artifacts import Artifact
from scae.data import TokenWindows
from scae.experiment.plan import Plan
from scae.experiment.workshop import Workshop


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(tmp_path_factory)


def pretrained(plan: Plan) -> dict[str, torch.Tensor]:
    return load_file(plan.pretrain.folder / "suite.safetensors")


def test_borders_reach_every_run_of_the_model(run: Finished, tmp_path: Path) -> None:
    """On the same separators, so that only what attention may read is another."""
    overrides = [*run.overrides, f"paths.output={tmp_path}", "data.attend_across=false"]
    config = configure(*overrides, "stages=[pretrain]")
    execute(config)
    stages = Workshop(config, Plan(config))
    train, heldout = stages.windows
    assert isinstance(train, TokenWindows)
    for traces in (stages.sample(256), stages.heldout()):
        for trace in traces:
            assert trace.documents is not None
            assert trace.patterns is not None
            crosses = trace.documents[:, :, None] != trace.documents[:, None]
            crosses &= trace.documents[:, None] != 0
            assert crosses.any()
            assert all(not pattern.masked_select(crosses[:, None]).any() for pattern in trace.patterns.values())
    across = Plan(run.config)
    assert isinstance(stages.plan.model, Artifact)
    assert stages.plan.model.name != across.model.name  # type: ignore[union-attr]
    ours, theirs = pretrained(stages.plan), pretrained(across)
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)
    assert heldout.separator == stages.lm.tokenizer.eos_token_id


def test_a_run_says_what_its_windows_were(run: Finished) -> None:
    assert run.config.data.separator == "eos"  # what auto means for the embedded model
    note = json.loads((run.output / "run.json").read_text())
    assert note["data"] == {"separator": "eos", "attend_across": True}


def test_a_model_given_another_text_is_warned_about_once_before_training(
    run: Finished, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    letters = random.Random(0)
    with (tmp_path / "noise.jsonl").open("w") as file:
        for _ in range(30):
            file.write(json.dumps({"text": "".join(letters.choices("XYZ%&@#", k=200))}) + "\n")
    folder = Plan(run.config).model.folder  # type: ignore[union-attr]
    kept = [part for part in run.overrides if not part.startswith(("model.", "experiment=", "data.path=", "paths."))]
    said = {}
    for name, path in (("noise", tmp_path / "noise.jsonl"), ("its own", run.folder / "text.jsonl")):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="scae"):
            execute(
                configure(
                    *kept,
                    "model=local",
                    f"model.path={folder}",
                    f"data.path={path}",
                    "data.separator=eos",
                    "sae.expansion=4",
                    "stages=[pretrain]",
                    f"paths.artifacts={tmp_path / name}",
                    f"paths.output={tmp_path / 'out'}",
                )
            )
        messages = [record.message for record in caplog.records]
        said[name] = [at for at, message in enumerate(messages) if "no better than the frequencies" in message]
        begins = next(at for at, message in enumerate(messages) if message.startswith("pretrain: "))
        assert all(at < begins for at in said[name])
    assert len(said["noise"]) == 1
    assert said["its own"] == []
