"""Artifacts: a name that says what a thing is made from, made once, complete or not there."""

import json
import logging
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

from scae.artifacts import Artifact, fingerprint


def test_the_name_is_what_it_is_made_from(tmp_path: Path) -> None:
    base = Artifact(tmp_path, "pretrain", {"k": 3, "lr": 0.1}, ("model-1",))
    same = Artifact(tmp_path / "elsewhere", "pretrain", {"lr": 0.1, "k": 3}, ("model-1",))
    assert base.name == same.name
    others = [
        Artifact(tmp_path, "finetune", {"k": 3, "lr": 0.1}, ("model-1",)),
        Artifact(tmp_path, "pretrain", {"k": 4, "lr": 0.1}, ("model-1",)),
        Artifact(tmp_path, "pretrain", {"k": 3}, ("model-1",)),
        Artifact(tmp_path, "pretrain", {"k": 3, "lr": 0.1}, ("model-2",)),
        Artifact(tmp_path, "pretrain", {"k": 3, "lr": 0.1}),
        Artifact(tmp_path, "pretrain", {"k": 3, "lr": 0.1, "upstream": ["model-1"]}),
    ]
    assert len({one.key for one in [base, *others]}) == len(others) + 1
    assert base.name.startswith("pretrain-")
    assert not list(tmp_path.iterdir())


def test_the_name_is_the_same_in_another_process(tmp_path: Path) -> None:
    made_from = {"sets": sorted({"a", "b"}), "x": 0.1, "n": None}
    script = (
        f"from pathlib import Path; from scae.artifacts import Artifact; print(Artifact(Path(), 'm', {made_from}).name)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == Artifact(tmp_path, "m", made_from).name


def test_it_is_made_once(artifact: Artifact) -> None:
    calls: list[Path] = []
    assert not artifact.is_complete
    for _ in range(2):
        assert artifact.build(writer(calls=calls)) == artifact.folder
    assert calls == [artifact.partial]
    assert artifact.is_complete
    assert not artifact.partial.exists()
    assert (artifact.folder / "file").read_text() == "1"
    note = json.loads((artifact.folder / "artifact.json").read_text())
    assert note["made_from"] == {"k": 3}
    assert note["upstream"] == ["model-1"]
    assert artifact.facts()["tokens"] == 7
    assert artifact.facts()["seconds"] >= 0


def test_a_failure_leaves_a_partial_and_the_next_build_resumes_it(artifact: Artifact) -> None:
    def fail(folder: Path) -> dict[str, Any]:
        (folder / "state").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        artifact.build(fail)
    assert not artifact.folder.exists()
    assert not artifact.is_complete
    seen: list[str] = []

    def resume(folder: Path) -> dict[str, Any]:
        seen.append((folder / "state").read_text())
        return writer("2")(folder)

    artifact.build(resume)
    assert seen == ["half"]
    assert artifact.is_complete
    assert not artifact.partial.exists()


def test_what_is_discarded_is_made_again_from_nothing(artifact: Artifact) -> None:
    artifact.build(writer("1"))
    artifact.partial.mkdir()
    (artifact.partial / "last.ckpt").write_text("old")
    artifact.discard()
    assert not artifact.is_complete
    assert not artifact.folder.exists()
    artifact.build(writer("2"))
    assert (artifact.folder / "file").read_text() == "2"
    assert not (artifact.folder / "last.ckpt").exists()
    artifact.discard()
    artifact.discard()  # of nothing, too


def test_two_at_once_make_it_once_and_the_second_says_that_it_waits(
    artifact: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[Path] = []
    begun = threading.Event()

    def slow(folder: Path) -> dict[str, Any]:
        begun.set()
        time.sleep(0.5)
        return writer(calls=calls)(folder)

    results: list[Path] = []
    threads = [threading.Thread(target=lambda: results.append(artifact.build(slow))) for _ in range(2)]
    with caplog.at_level(logging.INFO, "scae.artifacts"):
        threads[0].start()
        begun.wait()
        threads[1].start()
        for thread in threads:
            thread.join(timeout=20)
    assert len(calls) == 1
    assert results == [artifact.folder] * 2
    waiting = [record.getMessage() for record in caplog.records if "waiting" in record.getMessage()]
    assert len(waiting) == 1
    assert artifact.name in waiting[0]
    assert "\n" not in waiting[0]


def test_two_processes_make_it_once(artifact: Artifact, tmp_path: Path) -> None:
    script = f"""
import logging, sys, time
from pathlib import Path
from scae.artifacts import Artifact
logging.basicConfig(level=logging.INFO)
def make(folder):
    with open({str(tmp_path / "calls")!r}, "a") as calls:
        calls.write("made\\n")
    time.sleep(1.0)
    return {{}}
Artifact(Path({str(artifact.root)!r}), "pretrain", {{"k": 3}}, ("model-1",)).build(make)
"""
    command = [sys.executable, "-c", script]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = "".join(process.communicate(timeout=60)[1] for process in running)
    assert [process.returncode for process in running] == [0, 0], told
    assert (tmp_path / "calls").read_text() == "made\n"
    assert artifact.is_complete


def test_a_killed_maker_keeps_nobody_waiting(artifact: Artifact, tmp_path: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from scae.artifacts import Artifact
def make(folder):
    (folder / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
Artifact(Path({str(artifact.root)!r}), "pretrain", {{"k": 3}}, ("model-1",)).build(make)
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode != 0
    assert not artifact.is_complete
    assert (artifact.partial / "half").exists()
    started = time.monotonic()
    artifact.build(writer())
    assert time.monotonic() - started < 5
    assert artifact.is_complete


def test_nothing_half_written_is_ever_complete(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks at `folder` at any moment, also in the middle of a removal, sees a whole artifact or none."""

    def look() -> None:
        if artifact.is_complete:
            assert (artifact.folder / "a").exists(), "complete, and a file is missing"
            assert (artifact.folder / "z").exists(), "complete, and a file is missing"

    def make(folder: Path) -> dict[str, Any]:
        for name in ("a", "z"):
            (folder / name).write_text(name)
            look()
        return {}

    real_remove, real_replace, real_write = shutil.rmtree, Path.replace, Path.write_text

    def slow_remove(path: Any, *args: Any, **kwargs: Any) -> None:
        for file in sorted(Path(path).glob("*"), reverse=True):  # artifact.json goes late
            file.unlink()
            look()
        real_remove(path, *args, **kwargs)
        look()

    def spying_write(self: Path, *args: Any, **kwargs: Any) -> int:
        look()
        written = real_write(self, *args, **kwargs)
        look()
        return written

    def spying_replace(self: Path, target: Any) -> Path:
        look()
        moved = real_replace(self, target)
        look()
        return moved

    monkeypatch.setattr(shutil, "rmtree", slow_remove)
    monkeypatch.setattr(Path, "replace", spying_replace)
    monkeypatch.setattr(Path, "write_text", spying_write)
    artifact.build(make)
    artifact.discard()
    artifact.build(make)
    look()
    assert artifact.is_complete


def test_fingerprint_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("two")
    first = fingerprint(tmp_path)
    os.utime(tmp_path / "a", (0, 0))
    assert fingerprint(tmp_path) == first
    (tmp_path / "b").write_text("owt")
    second = fingerprint(tmp_path)
    (tmp_path / "b").rename(tmp_path / "c")
    assert len({first, second, fingerprint(tmp_path)}) == 3


def test_one_byte_in_the_middle_of_a_large_file_makes_another_folder(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.truncate(65 << 20)
    first = fingerprint(tmp_path)
    with path.open("r+b") as file:
        file.seek(32 << 20)
        file.write(b"1")
    assert fingerprint(tmp_path) != first
