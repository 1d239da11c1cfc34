"""Damaged artifacts, full disks, folders that disappear: each is one error, or made again."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from making import writer

from scae.artifacts import Artifact, writing
from scae.artifacts.artifact import COMMAND
from scae.core.failures import ArtifactError


def test_damage_is_named(artifact: Artifact) -> None:
    def make(folder: Path) -> dict[str, Any]:
        (folder / "suite.safetensors").write_bytes(b"12345678")
        (folder / "last.ckpt").write_bytes(b"of no use any more")
        return {}

    def damaged() -> str:
        found = artifact.damage()
        assert found is not None
        return found

    artifact.build(make)
    (artifact.folder / "last.ckpt").unlink()
    assert artifact.damage() is None
    (artifact.folder / "suite.safetensors").write_bytes(b"1234")
    assert damaged() == f"{artifact.folder / 'suite.safetensors'} is damaged (it has 4 bytes, 8 were written)"
    (artifact.folder / "suite.safetensors").unlink()
    assert damaged() == f"{artifact.folder / 'suite.safetensors'} is missing"
    for content in ("", "{}", "[]", '{"files": 1'):
        (artifact.folder / "artifact.json").write_text(content)
        assert damaged().startswith(f"{artifact.folder / 'artifact.json'} is damaged")
    artifact.discard()
    artifact.build(make)
    assert artifact.damage() is None


@pytest.mark.parametrize("damage", ["truncated", "zeros"])
def test_a_damaged_checkpoint_starts_the_stage_again(
    artifact: Artifact, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    artifact.partial.mkdir(parents=True)
    checkpoint = artifact.partial / "last.ckpt"
    torch.save({"weights": torch.randn(5000)}, checkpoint)
    content = checkpoint.read_bytes()
    half = len(content) // 2
    checkpoint.write_bytes(
        content[:half] if damage == "truncated" else content[:half] + bytes(64) + content[half + 64 :]
    )
    found: list[bool] = []
    artifact.build(lambda folder: found.append((folder / "last.ckpt").exists()) or {})
    assert found == [False]
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith(f"{checkpoint} is damaged")


def test_a_whole_checkpoint_is_kept(artifact: Artifact) -> None:
    import torch

    artifact.partial.mkdir(parents=True)
    torch.save({"weights": torch.randn(5000)}, artifact.partial / "last.ckpt")
    found: list[bool] = []
    artifact.build(lambda folder: found.append((folder / "last.ckpt").exists()) or {})
    assert found == [True]


def test_the_note_says_which_code_made_it(artifact: Artifact) -> None:
    artifact.build(writer())
    note = json.loads((artifact.folder / "artifact.json").read_text())
    assert set(note["versions"]) == {"python", "scae", "torch", "transformers", "transformer_lens", "lightning"}
    assert all(note["versions"][name] for name in ("python", "torch", "transformers", "lightning"))
    assert note["commit"] is None or len(note["commit"].removesuffix("-dirty")) == 40
    assert note["version"] == 1


def test_the_version_of_a_stage_is_in_its_name(tmp_path: Path) -> None:
    assert Artifact(tmp_path, "select", {}, (), 1).name != Artifact(tmp_path, "select", {}, (), 2).name


def test_a_command_discards_what_it_made_itself_not_again(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact.build(writer("old"))
    monkeypatch.setenv(COMMAND, "this")
    for _ in range(3):  # the jobs of a sweep
        artifact.discard()
        artifact.build(writer("new"))
        assert (artifact.folder / "file").read_text() == "new"
        (artifact.folder / "file").write_text("new")
    before = (artifact.folder / "artifact.json").stat().st_mtime_ns
    artifact.discard()
    assert (artifact.folder / "artifact.json").stat().st_mtime_ns == before
    monkeypatch.setenv(COMMAND, "the next")
    artifact.discard()
    assert not artifact.is_complete


def test_nothing_is_discarded_under_the_hands_of_its_maker(artifact: Artifact) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def make(folder: Path) -> dict[str, Any]:
        begun.set()
        go_on.wait(10)
        return writer()(folder)

    maker = threading.Thread(target=artifact.build, args=[make])
    maker.start()
    begun.wait(10)
    remover = threading.Thread(target=artifact.discard)
    remover.start()
    time.sleep(0.2)
    assert artifact.partial.exists()
    go_on.set()
    maker.join(10)
    remover.join(10)
    assert not artifact.folder.exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_error_and_a_repeat_goes_on(artifact: Artifact, number: int) -> None:
    def make(folder: Path) -> dict[str, Any]:
        raise OSError(number, os.strerror(number), str(folder / "suite.safetensors"))

    with pytest.raises(ArtifactError, match=rf"{artifact.name} cannot be written: .*suite\.safetensors.*repeat"):
        artifact.build(make)
    assert not artifact.is_complete
    artifact.build(writer())
    assert artifact.is_complete


def test_a_real_limit_of_the_size_of_files(artifact: Artifact) -> None:
    """What the libraries say when nothing more can be written."""
    script = f"""
import resource, torch
from pathlib import Path
from safetensors.torch import save_file
from scae.artifacts import Artifact
from scae.core.failures import ArtifactError
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
def rust(folder):
    save_file({{"x": torch.zeros(5000)}}, folder / "suite.safetensors")
def python(folder):
    (folder / "suite.json").write_text("x" * 5000)
for number, make in enumerate((rust, python)):
    try:
        Artifact(Path({str(artifact.root)!r}), "pretrain", {{"k": number}}).build(make)
    except ArtifactError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("cannot be written: a file has reached the limit of its size" in line for line in lines)
    assert not list(artifact.root.glob("*/artifact.json"))


def test_a_folder_that_disappears_while_it_is_worked_in(artifact: Artifact) -> None:
    def make(folder: Path) -> dict[str, Any]:
        shutil.rmtree(artifact.root)
        return writer()(folder)

    with pytest.raises(ArtifactError, match=r"cannot be written: no such file or folder \("):
        artifact.build(make)


def test_a_file_where_the_artifacts_should_be(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("a file")
    with pytest.raises(ArtifactError, match=r"cannot be written: (a file stands where|not a folder)"):
        Artifact(tmp_path / "root", "pretrain", {}).build(writer())


def test_a_file_elsewhere_that_is_missing_is_no_trouble_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), writing(tmp_path / "artifacts" / "pretrain-1"):
        (tmp_path / "data" / "text.txt").read_text()
