"""What a repeated, an interrupted or a damaged experiment computes again, and what it reuses."""

import errno
import logging
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from commands import Running
from experiments import (
    ROOT,
    TWINS,
    Finished,
    alone,
    configure,
    copied_model,
    execute,
    finished,
    made,
    untimed,
    variation,
)

from scae.config import STAGES, Config, ConfigError
from scae.core.failures import ArtifactError, NonFiniteError
from scae.experiment.plan import Plan
from scae.experiment.table import made_by

_ = alone, finished, made  # fixtures of the tests here

# repeating


def test_a_repeat_reuses_everything_and_says_the_same(
    finished: Finished, made: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    from scae.experiment.execution import Execution

    before = (finished.output / "metrics.json").read_bytes()
    with caplog.at_level(logging.INFO):
        Execution(Plan(finished.config)).up_to(list(STAGES))
    assert made == []
    told = [record.getMessage() for record in caplog.records]
    for stage in ("model", "pretrain", "select", "finetune", "evaluate", "analyze"):
        assert any(line.startswith(stage) and "reused" in line for line in told), stage
    execute(finished.config)
    assert made == []
    assert (finished.output / "metrics.json").read_bytes() == before


def test_some_stages_alone(finished: Finished, made: list[str], tmp_path: Path) -> None:
    copied_model(finished, tmp_path / "artifacts")
    own = f"paths.artifacts={tmp_path / 'artifacts'}"
    config = variation(finished, tmp_path, own, "pretrain.steps=3", "stages=[pretrain]")
    assert execute(config) == {}
    assert made == ["pretrain"]
    plan = Plan(config)
    assert plan.pretrain.is_complete
    assert not plan.finetune(plan.pruned).is_complete
    assert not (tmp_path / "out" / "run.json").exists()


def test_forcing_computes_a_stage_and_what_follows_again(finished: Finished, made: list[str], tmp_path: Path) -> None:
    config = variation(finished, tmp_path, "evaluation.twins=true", "force=[finetune]")
    again = execute(config)
    assert made == ["finetune"] * 5 + ["evaluate", "analyze"]
    assert untimed(again) == untimed(finished.metrics)


def test_one_stage_needs_no_brackets() -> None:
    fixed = ("paths.output=out", "trainer=cpu")
    assert configure(*fixed, "force=finetune").force == ["finetune"]
    assert configure(*fixed, "stages=pretrain").stages == ["pretrain"]


def test_a_stage_of_another_configuration_is_not_touched(finished: Finished, made: list[str], tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.root.rglob("*.safetensors")}
    metrics = execute(variation(finished, tmp_path, "connectivity.C=3"))
    assert made == ["select", "select", "finetune", "evaluate", "analyze"]
    assert metrics["connectivity/in_degree_mean"] <= 3 < metrics["connectivity/in_degree_max"] <= 3 * 4
    assert metrics["plain/ce"] == finished.metrics["plain/ce"]
    assert {path: path.stat().st_mtime_ns for path in before} == before


# interruption


@pytest.mark.slow
def test_a_killed_run_resumes_where_it_was(
    finished: Finished, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SIGKILL in the middle of pretraining; in the end the same weights to the bit."""
    long = ("pretrain.steps=80", "sae=batchtopk", "sae.expansion=4", "sae.k=4", "trainer.checkpoint_minutes=0.005")
    roots = [tmp_path / "killed", tmp_path / "whole"]
    for root in roots:
        copied_model(finished, root)
    killed, whole = (
        variation(finished, tmp_path, *long, "stages=[pretrain]", f"paths.artifacts={root}") for root in roots
    )
    artifact = Plan(killed).pretrain
    overrides = [o for o in (*finished.overrides, *long) if not o.startswith("paths.")]
    overrides += [f"paths.artifacts={roots[0]}", "stages=[pretrain]"]
    process = Running(ROOT / "train.py", *overrides, cwd=tmp_path)
    patience = time.monotonic() + 120
    while not (artifact.partial / "last.ckpt").exists():
        assert process.runs, process.told()
        assert time.monotonic() < patience
        time.sleep(0.02)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    assert process.done().returncode == -signal.SIGKILL
    assert not artifact.is_complete, "it was over before it was killed: give it more steps"

    with caplog.at_level(logging.INFO):
        execute(killed)
    assert any("resuming from" in record.getMessage() for record in caplog.records)
    execute(whole)
    weights = [(Plan(config).pretrain.folder / "suite.safetensors").read_bytes() for config in (killed, whole)]
    assert weights[0] == weights[1]


class Interrupted(Exception):
    pass


def interrupted_checkpoint(config: Config, at: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pretraining leaves its checkpoint when it fails in micro-step `at`."""
    from scae.training import SuiteTraining

    step = SuiteTraining.training_step

    def failing(self: Any, batch: Any, batch_idx: int) -> Any:
        if batch_idx == at:
            raise Interrupted
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(SuiteTraining, "training_step", failing)
        with pytest.raises(Interrupted):
            execute(config)
    checkpoint = Plan(config).pretrain.partial / "last.ckpt"
    assert checkpoint.is_file()
    return checkpoint


def test_an_explicit_checkpoint_is_resumed(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    copied_model(finished, tmp_path / "root")
    places = (f"paths.artifacts={tmp_path / 'root'}", "trainer.checkpoint_minutes=1e-6")
    config = variation(finished, tmp_path, "stages=[pretrain]", *places)
    checkpoint = interrupted_checkpoint(config, 7, monkeypatch)
    shutil.move(checkpoint, tmp_path / "mine.ckpt")
    shutil.rmtree(Plan(config).pretrain.partial)
    explicit = config.model_copy(update={"ckpt_path": str(tmp_path / "mine.ckpt")})
    with caplog.at_level(logging.INFO):
        execute(explicit)
    assert any("resuming from" in record.getMessage() for record in caplog.records)
    ours, theirs = (Plan(c).pretrain.folder / "suite.safetensors" for c in (explicit, finished.config))
    assert ours.read_bytes() == theirs.read_bytes()

    other = variation(
        finished, tmp_path, "sae.k=3", f"paths.artifacts={tmp_path / 'root'}", f"ckpt_path={tmp_path / 'mine.ckpt'}"
    )
    with pytest.raises(ConfigError, match=r"ckpt_path=.*mine\.ckpt: a checkpoint of another configuration"):
        execute(other)
    assert not Plan(other).pretrain.partial.exists()


def test_a_repeat_of_an_interrupted_command_resumes(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And everything before the stage that died is reused."""
    copied_model(finished, tmp_path / "root")
    places = (f"paths.artifacts={tmp_path / 'root'}", "trainer.checkpoint_minutes=1e-6")
    config = variation(finished, tmp_path, *places)
    interrupted_checkpoint(config, 5, monkeypatch)
    metrics = untimed(execute(config))
    expected = untimed(finished.metrics)
    arms_of_both = [key for key in metrics if key.split("/")[0] not in TWINS and key in expected]
    assert len(arms_of_both) > 80
    assert {key: metrics[key] for key in arms_of_both} == {key: expected[key] for key in arms_of_both}


def test_a_stage_that_diverges_is_not_completed(finished: Finished, tmp_path: Path) -> None:
    """Its weights overflow in the first step: nothing is saved, and nothing that would be made from it is begun."""
    copied_model(finished, tmp_path / "root")
    places = (f"paths.artifacts={tmp_path / 'root'}", "trainer.checkpoint_minutes=1e-6")
    config = variation(finished, tmp_path, "pretrain.lr=1e38", *places)
    with pytest.raises(NonFiniteError, match=r"^pretrain stopped"):
        execute(config)
    plan = Plan(config)
    assert not plan.pretrain.is_complete
    assert not (plan.pretrain.partial / "suite.safetensors").exists()
    assert not (plan.pretrain.partial / "last.ckpt").exists()
    assert not any(plan.root.glob("select-*"))


def test_a_checkpoint_of_the_model_and_one_of_the_finetuning_are_known(finished: Finished) -> None:
    from scae.artifacts.checkpoints import read_identity

    plan = Plan(finished.config)
    found = {read_identity(path)["artifact"] for path in finished.root.rglob("last.ckpt")}
    assert found <= {artifact.name for artifact in made_by(plan, ["model", "pretrain", "finetune"])} | {
        path.name for path in finished.root.iterdir()
    }


def test_only_the_first_process_writes_a_suite(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others would write into a folder that the first one renames in the meantime."""
    from scae.experiment import suite_training
    from scae.experiment.stages import pretrain
    from scae.experiment.workshop import Workshop

    config = variation(finished, tmp_path)
    monkeypatch.setattr(suite_training, "fit", lambda *_, **__: 1)
    for rank, written in (("0", True), ("1", False)):
        folder = tmp_path / rank
        folder.mkdir()
        monkeypatch.setenv("LOCAL_RANK", rank)
        pretrain.make(Workshop(config, Plan(config)), folder)
        assert (folder / "suite.safetensors").exists() == written
        assert bool(list(folder.iterdir())) == written


# damage


def test_a_damaged_artifact_is_named_with_what_repairs_it(finished: Finished, made: list[str], tmp_path: Path) -> None:
    """Before anything is computed; and what is advised works."""
    root = tmp_path / "root"
    shutil.copytree(finished.root, root)
    config = variation(finished, tmp_path, f"paths.artifacts={root}")
    plan = Plan(config)
    broken = plan.finetune(plan.pruned).folder / "suite.safetensors"
    broken.write_bytes(broken.read_bytes()[:1000])
    plan.evaluate.discard()
    with pytest.raises(ArtifactError, match=r"suite\.safetensors is damaged .*; force=\[finetune\] makes it again"):
        execute(config)
    assert made == []
    again = execute(config.model_copy(update={"force": ["finetune"]}))
    assert made == ["finetune", "evaluate", "analyze"]
    assert again["pruned/ce"] == finished.metrics["pruned/ce"]


def test_damage_that_keeps_the_size_is_named_when_it_is_read(finished: Finished, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(finished.root, root)
    config = variation(finished, tmp_path, f"paths.artifacts={root}")
    plan = Plan(config)
    broken = plan.finetune(plan.pruned).folder / "suite.safetensors"
    broken.write_bytes(bytes(broken.stat().st_size))
    plan.evaluate.discard()
    with pytest.raises(ArtifactError, match=r"suite\.safetensors is damaged.*; force=\[finetune\] makes it again"):
        execute(config)


def test_a_stage_that_is_not_asked_for_is_repaired_by_asking_for_it(finished: Finished, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(finished.root, root)
    config = variation(finished, tmp_path, f"paths.artifacts={root}", "stages=[evaluate]")
    (Plan(config).pretrain.folder / "artifact.json").write_text("")
    with pytest.raises(
        ArtifactError, match=r"artifact\.json is damaged.*; stages=\[pretrain,evaluate\] force=\[pretrain"
    ):
        execute(config)


def test_a_corpus_that_is_moved_changes_no_name(finished: Finished, made: list[str], tmp_path: Path) -> None:
    shutil.copytree(finished.root, tmp_path / "root")
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(finished.folder / "text.jsonl", tmp_path / "elsewhere" / "text.jsonl")
    places = (f"data.path={tmp_path / 'elsewhere'}", f"paths.artifacts={tmp_path / 'root'}")
    before = sorted(path.name for path in (tmp_path / "root").iterdir() if path.is_dir())
    execute(variation(finished, tmp_path, *places, "evaluation.twins=true", "force=[evaluate]"))
    assert made == ["evaluate"]
    assert sorted(path.name for path in (tmp_path / "root").iterdir() if path.is_dir()) == before


def test_a_full_disk_at_the_end_is_one_error(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scae.experiment import results

    def full(path: Path, text: str) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(results, "write_text", full)
    with pytest.raises(ArtifactError, match=r"out cannot be written: no space is left \(.*metrics\.json\)"):
        execute(variation(finished, tmp_path))
