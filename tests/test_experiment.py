"""The experiment from end to end on a very small configuration: what is written, reused, resumed, recomputed."""

import errno
import json
import logging
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from processes import LAUNCHER_VARIABLES

from scae.command import values
from scae.config import STAGES, Config, ConfigError, parse
from scae.core.failures import ArtifactError, NonFiniteError
from scae.experiment.plan import Plan
from scae.experiment.table import TABLE, made_by

ROOT = Path(__file__).parents[1]
TWINS = ("random", "none", "dense_finetuned", "plain_finetuned")
ARMS = ("plain", "dense", "pruned", "pruned_no_finetune", "random_no_finetune", *TWINS)
SITES = ("0.attn", "0.mlp", "1.attn", "1.mlp")
MICRO = (
    "experiment=smoke",
    "trainer=cpu",
    "trainer.progress=false",
    "data=text",
    "data.context=32",
    "model.d_model=16",
    "model.d_mlp=24",
    "model.vocab_size=300",
    "model.steps=80",
    "model.batch_size=4",
    "l0=4",
    "connectivity.C=6",
    "connectivity.spread=4",
    "connectivity.tokens=512",
    "sae.bound.tokens=1024",
    "finetune.refit.tokens=256",
    "pretrain.steps=12",
    "pretrain.batch_size=4",
    "finetune.steps=8",
    "finetune.lr=3e-3",  # the default is too high for eight steps
    "finetune.batch_size=4",
    "evaluation.tokens=512",
    "evaluation.batch_size=4",
    "analysis.edges=null",
    "analysis.prompts=2",
)
_finished: dict[str, "Finished"] = {}


@dataclass(frozen=True)
class Finished:
    """A run that came to its end. folder: everything; output: of the run; overrides: its command line; made: the
    artifacts and tokens that it has left, whatever other tests put beside them."""

    folder: Path
    output: Path
    overrides: tuple[str, ...]
    config: Config
    metrics: dict[str, float]
    made: tuple[Path, ...]

    @property
    def root(self) -> Path:
        return self.folder / "artifacts"


def corpus(path: Path) -> None:
    """Documents with some order in them."""
    words = [f"{a}{b}" for a in ("ba", "ko", "ri", "ta") for b in ("n", "lo", "s", "me", "")]
    source = random.Random(0)
    with path.open("w") as file:
        for _ in range(80):
            start = source.randrange(len(words))
            text = " ".join(words[(start + i * i) % len(words)] for i in range(60))
            file.write(json.dumps({"text": text}) + "\n")


def configure(*overrides: str) -> Config:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return parse(values(compose("train", overrides=list(overrides))))


def execute(config: Config) -> dict[str, float]:
    """Run in this process; returns the metrics, empty where there was no evaluation."""
    from scae.experiment import run

    output = Path(config.paths.output)
    output.mkdir(parents=True, exist_ok=True)
    run(config)
    written = output / "metrics.json"
    return json.loads(written.read_text()) if written.exists() else {}


def finish(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The run that the tests of this session share; made once."""
    if "run" not in _finished:
        folder = tmp_path_factory.mktemp("experiment")
        corpus(folder / "text.jsonl")
        overrides = (
            *MICRO,
            f"data.path={folder / 'text.jsonl'}",
            f"paths.artifacts={folder / 'artifacts'}",
            f"paths.output={folder / 'run'}",
        )
        config = configure(*overrides, "evaluation.twins=true")
        metrics = execute(config)
        made = tuple(path for path in (folder / "artifacts").iterdir() if path.is_dir())
        _finished["run"] = Finished(folder, folder / "run", overrides, config, metrics, made)
    return _finished["run"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(tmp_path_factory)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process of a distributed run."""
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages that did some work, in order."""
    calls: list[str] = []

    def watched(stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def make(*args: Any) -> Any:
            calls.append(stage)
            return work(*args)

        return make

    for row in TABLE:
        monkeypatch.setattr(f"scae.experiment.stages.{row.name}.make", watched(row.name, row.work()))
    return calls


def variation(finished: Finished, tmp_path: Path, *overrides: str) -> Config:
    """The same experiment but for these overrides, beside the artifacts of the finished one."""
    return configure(*finished.overrides, f"paths.output={tmp_path / 'out'}", *overrides)


def copied_model(finished: Finished, root: Path) -> None:
    """The trained language model and the tokens, in a root of artifacts of its own."""
    root.mkdir()
    for folder in finished.made:
        if folder.name.startswith(("model-", "tokens-")):
            shutil.copytree(folder, root / folder.name)


def untimed(metrics: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if not key.startswith("time/")}


def python(*arguments: str, cwd: Path) -> tuple[list[str], dict[str, Any]]:
    return [sys.executable, str(ROOT / "train.py"), *arguments], {
        "cwd": cwd,
        "env": os.environ | {"PYTHONPATH": str(ROOT)},
        "text": True,
    }


# what a run writes


def test_every_number_that_is_promised(finished: Finished) -> None:
    metrics = finished.metrics
    expected = {"lm/ce", "lm/ce_zero", "lm/ce_mean", "lm/ce_unigram", "lm/modules", "lm/replaced"}
    per_arm = {"ce", "ce_diff", "ce_recovered", "kl", "top1", "fvu_mean", "fvu_max", "connected_recovered"}
    per_arm |= {"above_dense"}
    per_arm |= {f"{name}/{site}" for name in ("fvu", "l0", "dead") for site in SITES}
    expected |= {f"{arm}/{key}" for arm in ARMS for key in per_arm}
    expected |= {f"connectivity/{d}_degree_{s}" for d in ("in", "out") for s in ("mean", "median", "max")}
    expected |= {f"connectivity/{name}" for name in ("C", "edges", "density", "regrown")}
    expected |= {f"connectivity/bypass/{site}" for site in SITES}
    expected |= {
        f"features/{stage}/{what}/{site}"
        for stage in ("pretrain", "finetune")
        for what in ("never_fired", "dead")
        for site in SITES
    }
    expected |= {f"connectivity/kept/{site}" for site in SITES[1:]}
    expected |= {f"connectivity/from/{d}/{u}" for i, d in enumerate(SITES) for u in SITES[:i]}
    of_pass = (
        "l0",
        "l1",
        "fvu",
        "explained_variance",
        "cosine",
        "mse",
        "dead",
        "never_fired",
        "plain_only",
        "no_input",
    )
    expected |= {f"analysis/{mode}/{key}/{s}" for mode in ("plain", "pruned") for key in of_pass for s in SITES}
    expected |= {f"analysis/ablation/{k}/{s}" for k in ("zero", "mean", "reconstruction") for s in ("all", *SITES)}
    expected |= {f"analysis/agreement/{key}/{s}" for key in ("mean_correlation", "mean_jaccard") for s in SITES}
    explained = ("replacement", "completeness", "strict_replacement", "strict_completeness", "constant")
    expected |= {f"analysis/explained{twin}/{key}" for twin in ("", "_random") for key in explained}
    stages = ("model", "pretrain", "select", "finetune", "twins", "evaluate", "analyze")
    expected |= {f"{what}/{stage}" for what in ("time", "tokens") for stage in stages}
    assert expected == set(metrics)
    assert all(isinstance(value, float | int) and math.isfinite(value) for value in metrics.values())


def test_the_numbers_hang_together(finished: Finished) -> None:
    m = finished.metrics
    for arm in ARMS:
        assert m[f"{arm}/ce_diff"] == pytest.approx(m[f"{arm}/ce"] - m["lm/ce"], abs=1e-9)
        fvus = [m[f"{arm}/fvu/{site}"] for site in SITES]
        assert m[f"{arm}/fvu_mean"] == pytest.approx(sum(fvus) / 4)
        assert m[f"{arm}/fvu_max"] == max(fvus)
        l0 = [m[f"{arm}/l0/{site}"] for site in SITES]
        assert max(l0) <= 4
        assert sum(l0) > 4
        assert m[f"{arm}/kl"] > 0
    assert m["connectivity/C"] == 6
    assert m["connectivity/in_degree_mean"] <= 6 < m["connectivity/in_degree_max"] <= 6 * 4
    assert m["none/connected_recovered"] == 0
    assert m["tokens/model"] == 80 * 4 * 32
    assert m["tokens/pretrain"] == 12 * 4 * 32
    assert m["tokens/finetune"] == 8 * 4 * 32
    assert m["tokens/twins"] == 4 * 8 * 4 * 32


def test_the_files_of_a_run(finished: Finished) -> None:
    note = json.loads((finished.output / "run.json").read_text())
    for stage in ("pretrain", "select", "finetune", "evaluate", "analyze"):
        assert (finished.output / note["stages"][stage] / "artifact.json").is_file()
    assert (finished.output / note["model"]["path"] / "config.json").is_file()
    report = (finished.output / "report.md").read_text()
    for part in ("pruned", "random", "0.attn"):
        assert part in report
    assert list(finished.output.glob("*.png"))
    assert not [path for path in finished.output.rglob("*") if "partial" in path.name or path.name.endswith(".tmp")]
    assert not [path for path in finished.made if path.suffix == ".partial"]
    assert not list(finished.root.rglob("*.pt"))
    assert not list(finished.root.rglob("*.pkl"))


def test_training_did_something(finished: Finished) -> None:
    m = finished.metrics
    assert m["pruned/fvu_mean"] < m["pruned_no_finetune/fvu_mean"]
    assert m["lm/ce"] < math.log(300)


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
    command, options = python(*overrides, f"paths.artifacts={roots[0]}", "stages=[pretrain]", cwd=tmp_path)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, **options)
        patience = time.monotonic() + 120
        while not (artifact.partial / "last.ckpt").exists():
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < patience
            time.sleep(0.02)
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        process.wait()
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


# what can be chosen


@pytest.mark.parametrize(
    "overrides",
    [
        ("sae=vanilla", "sae.expansion=4"),
        ("connectivity=all",),
        ("connectivity=none",),
        ("sites=crosslayer", "sae.expansion=2"),
        ("connectivity.C=0",),
        ("sites=mlp_transcoder", "data.packing=document", "loss=ce"),
        ("connectivity.scope=per_site", "connectivity.weighting=firing", "trainer.accumulate=2"),
    ],
    ids=" ".join,
)
def test_variations_run_to_the_end(finished: Finished, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    short = ("pretrain.steps=4", "finetune.steps=3")
    metrics = execute(variation(finished, tmp_path, *short, *overrides))
    assert metrics
    assert all(math.isfinite(value) for value in metrics.values())
    assert (tmp_path / "out" / "report.md").is_file()
    if overrides[0] == "connectivity=all":
        assert metrics["pruned_no_finetune/ce"] == pytest.approx(metrics["dense/ce"], rel=1e-6)
    if overrides[0] in ("connectivity=none", "connectivity.C=0"):
        assert metrics["connectivity/edges"] == 0
        assert metrics["connectivity/bypass/1.mlp"] == pytest.approx(1.0)
    if overrides[0] == "sites=mlp_transcoder":
        assert not [key for key in metrics if "attn" in key]
        assert "stand in for 2 of the model's 4 modules" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize("loss", ["recon", "e2e"])
def test_every_arm_runs_at_thresholds_of_its_own_pass(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, loss: str
) -> None:
    """Pretrained in the plain pass or in the live model. A pass that a suite was trained in keeps what it learned."""
    from scae.experiment.stages import evaluate as stage
    from scae.experiment.workshop import Workshop

    caplog.set_level(logging.INFO, "scae")
    arms: list[Any] = []
    evaluate = stage.evaluate

    def watched(lm: Any, compared: list[Any], *others: Any) -> dict[str, float]:
        arms.extend(compared)
        return evaluate(lm, compared, *others)

    monkeypatch.setattr(stage, "evaluate", watched)
    changes = ("sae=batchtopk", "sae.expansion=4", "sae.k=4", "pretrain.steps=4", "finetune.steps=3")
    config = variation(finished, tmp_path, *changes, f"loss@pretrain.loss={loss}")
    metrics = execute(config)
    assert all(math.isfinite(value) for value in metrics.values())
    assert {arm.name: arm.suite.threshold_pass for arm in arms} == {arm.name: arm.mode for arm in arms}
    (said,) = [record.getMessage() for record in caplog.records if "another pass" in record.getMessage()]
    foreign = ["plain"] * (loss == "e2e") + ["dense", "pruned_no_finetune", "random_no_finetune"]
    assert f"that of {', '.join(foreign)};" in said
    pruned = next(arm.suite for arm in arms if arm.name == "pruned")
    plan = Plan(config)
    stored = Workshop(config, plan).suite(plan.finetune(plan.pruned).folder)
    for site in stored.sites:
        assert pruned[site].activation.threshold == stored[site].activation.threshold


def test_pretraining_in_the_live_model(finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scae.lm import LanguageModel

    runs: list[int] = []
    splice = LanguageModel.splice

    def counting(self: Any, trace: Any, *args: Any, **options: Any) -> Any:
        runs.append(len(trace.tokens))
        return splice(self, trace, *args, **options)

    monkeypatch.setattr(LanguageModel, "splice", counting)
    overrides = ("loss@pretrain.loss=e2e", "pretrain.steps=3", "stages=[pretrain]")
    config = variation(finished, tmp_path, *overrides)
    execute(config)
    assert Plan(config).pretrain.is_complete
    assert runs.count(config.pretrain.batch_size) == 3  # one more, of other windows, was the check at opening


@pytest.mark.parametrize(
    ("logger", "left"), [("csv", "metrics.csv"), ("tensorboard", "events.out*"), ("wandb", "*.wandb")]
)
def test_loggers(finished: Finished, tmp_path: Path, logger: str, left: str) -> None:
    steps = 1 + ["csv", "tensorboard", "wandb"].index(logger)
    overrides = (f"logger={logger}", "logger.every=1", f"pretrain.steps={steps}", "pretrain.lr=1e-5")
    config = variation(finished, tmp_path, *overrides, "stages=[pretrain]")
    execute(config)
    found = list(Plan(config).pretrain.folder.rglob(left))
    assert found
    assert all(path.stat().st_size for path in found)


@pytest.mark.parametrize("precision", ["bf16-mixed"])
def test_every_precision_that_is_allowed_runs(finished: Finished, tmp_path: Path, precision: str) -> None:
    overrides = (f"trainer.precision={precision}", "pretrain.steps=2", "finetune.steps=2", "stages=[finetune]")
    config = variation(finished, tmp_path, *overrides)
    execute(config)
    assert Plan(config).finetune(Plan(config).pruned).is_complete


def test_the_trained_model_is_an_ordinary_local_one(finished: Finished, tmp_path: Path) -> None:
    plan = Plan(finished.config)
    assert plan.model is not None
    without = [o for o in finished.overrides if not o.startswith(("model.", "experiment="))]
    config = configure(
        *without,
        "model=local",
        f"model.path={plan.model.folder}",
        "data.separator=eos",  # what it was trained on; auto would measure
        "sae.expansion=4",
        f"paths.output={tmp_path / 'out'}",
    )
    metrics = execute(config)
    assert metrics["lm/ce"] == pytest.approx(finished.metrics["lm/ce"], rel=1e-6)
    assert metrics["plain/ce"] == pytest.approx(finished.metrics["plain/ce"], rel=1e-4)
    assert "time/model" not in metrics


def test_a_window_that_is_too_long_for_the_model_is_refused(finished: Finished, tmp_path: Path) -> None:
    plan = Plan(finished.config)
    assert plan.model is not None
    without = [o for o in finished.overrides if not o.startswith(("model.", "experiment=", "data.context"))]
    config = configure(*without, "model=local", f"model.path={plan.model.folder}", "data.context=64")
    with pytest.raises(ConfigError, match=r"data\.context=64.*at most 32"):
        execute(config)


# the command


@pytest.mark.slow
def test_a_sweep_over_c_trains_the_model_and_the_suite_once(finished: Finished, tmp_path: Path) -> None:
    root = tmp_path / "root"
    overrides = [o for o in finished.overrides if not o.startswith("paths.")]
    overrides = [o for o in overrides if not o.startswith("connectivity.C")]
    command, options = python(
        "-m", "connectivity.C=2,8", *overrides, f"paths.artifacts={root}", "hydra.sweep.dir=sweep", cwd=tmp_path
    )
    done = subprocess.run(command, capture_output=True, timeout=300, **options)
    assert done.returncode == 0, done.stderr[-4000:]

    def count(kind: str) -> int:
        return len([path for path in root.glob(f"{kind}-*") if path.is_dir()])

    assert [count(kind) for kind in ("model", "tokens", "pretrain", "select", "finetune")] == [1, 1, 1, 4, 2]
    assert "Traceback" not in done.stderr
    made = {path: path.stat().st_mtime_ns for path in root.glob("*/artifact.json")}
    forced = subprocess.run([*command, "force=[pretrain]"], capture_output=True, timeout=300, **options)
    assert forced.returncode == 0, forced.stderr[-4000:]
    assert forced.stderr.count("pretrain: done in") == 1, "once for both jobs"
    kept = {path.name.split("-")[0] for path in (p.parent for p in made if p.stat().st_mtime_ns == made[p])}
    assert kept == {"model", "tokens"}
    sweep = tmp_path / "sweep"
    for job, C in (("0", 2), ("1", 8)):
        assert json.loads((sweep / job / "metrics.json").read_text())["connectivity/C"] == C
        assert json.loads((sweep / job / "job.json").read_text())["status"] == "completed"
        assert (sweep / job / "report.md").is_file()
    table = (sweep / "sweep.md").read_text()
    assert "pruned" in table
    assert list(sweep.glob("*.png"))

    (sweep / "sweep.md").unlink()
    rebuilt = [sys.executable, "-m", "scae.report", str(sweep)]
    subprocess.run(rebuilt, check=True, timeout=60, cwd=tmp_path, env=options["env"], capture_output=True)
    assert (sweep / "sweep.md").read_text() == table


@pytest.mark.slow
def test_two_devices_by_command(finished: Finished, tmp_path: Path) -> None:
    """`trainer=ddp`: the stages that are made together, and those that one process makes for both."""
    root = tmp_path / "root"
    copied_model(finished, root)
    overrides = [o for o in finished.overrides if not o.startswith("paths.")]
    two = ("trainer=ddp", "trainer.accelerator=cpu", "pretrain.loss.recon.kind=mse", "loss.recon.kind=mse")
    overrides = [*[o for o in overrides if o != "trainer=cpu"], *two]
    command, options = python(*overrides, f"paths.artifacts={root}", "hydra.run.dir=out", cwd=tmp_path)
    done = subprocess.run(command, capture_output=True, timeout=300, **options)
    told = [line for line in done.stderr.splitlines() if "Error" in line]
    assert done.returncode == 0, "\n".join([*told, done.stderr[-2000:]])
    two_devices = json.loads((tmp_path / "out" / "metrics.json").read_text())
    one = execute(variation(finished, tmp_path, "pretrain.loss.recon.kind=mse", "loss.recon.kind=mse"))
    for key in ("plain/ce", "pruned/ce", "pruned/fvu_mean", "plain/fvu_mean"):
        assert two_devices[key] == pytest.approx(one[key], rel=1e-3), key
