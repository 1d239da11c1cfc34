"""Experiments on a very small configuration, in this process or by the command, that tests look at and vary."""

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import commands
import pytest
from hydra import compose, initialize_config_dir

from scae.command import values
from scae.config import Config, parse
from scae.experiment.table import TABLE

ROOT = Path(__file__).parents[1]
TWINS = ("random", "none", "dense_finetuned", "plain_finetuned")
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
    for name in commands.LAUNCHER_VARIABLES:
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


def train(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`python train.py *arguments`, to its end."""
    return commands.run(ROOT / "train.py", *arguments, cwd=cwd)
