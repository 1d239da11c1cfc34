"""Damaged checkpoints, and the notes of artifacts."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import ANY, Foreign, surprise

from scae.artifacts import Artifact
from scae.artifacts.checkpoints import damage_of, read_identity
from scae.core.failures import ArtifactError


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("checkpoint") / "last.ckpt"
    torch.save({"hyper_parameters": {"artifact": "pretrain-0"}, "state_dict": {"a": torch.ones(50)}}, file)
    return file


@pytest.mark.parametrize("damage", ANY)
def test_a_damaged_checkpoint(checkpoint: Path, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path(shutil.copy(checkpoint, tmp_path))
    ANY[damage](file)
    assert surprise(lambda: read_identity(file), file) is None
    if file.is_file():
        assert surprise(lambda: damage_of(file), file) is None
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "content", [1, [1], {}, {"hyper_parameters": 3}, {"hyper_parameters": [1]}, {1: torch.ones(2)}]
)
def test_a_checkpoint_of_something_else(tmp_path: Path, content: Any) -> None:
    file = tmp_path / "last.ckpt"
    torch.save(content, file)
    assert surprise(lambda: read_identity(file), file) is None


def test_a_checkpoint_of_objects_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "last.ckpt"
    torch.save({"hyper_parameters": Foreign()}, file)
    assert surprise(lambda: read_identity(file), file) is None
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("damage", ANY)
@pytest.mark.parametrize("name", ["artifact.json", "content.json"])
def test_a_damaged_artifact(tmp_path: Path, name: str, damage: str) -> None:
    artifact = Artifact(tmp_path, "select", {"a": 1})

    def make(folder: Path) -> dict[str, Any]:
        (folder / "content.json").write_text("[1, 2, 3]")
        return {"tokens": 3}

    artifact.build(make)
    file = artifact.folder / name
    ANY[damage](file)

    def read() -> None:
        if artifact.is_complete and (told := artifact.damage()):
            raise ArtifactError(told)
        artifact.build(make)
        assert artifact.facts()["tokens"] == 3

    assert surprise(read, file) is None
