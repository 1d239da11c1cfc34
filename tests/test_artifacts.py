"""Artifacts: a name that says what a thing is made from, made once, complete or not there."""

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scae.artifacts import Artifact, fingerprint, is_first_process, job, leading, writing
from scae.artifacts import artifact as artifacts
from scae.artifacts.artifact import COMMAND
from scae.core.failures import ArtifactError


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes find the package, installed or not."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return Artifact(tmp_path / "root", "pretrain", {"k": 3}, ("model-1",))


def writer(content: str = "1", calls: list[Path] | None = None) -> Callable[[Path], dict[str, Any]]:
    def make(folder: Path) -> dict[str, Any]:
        if calls is not None:
            calls.append(folder)
        (folder / "file").write_text(content)
        return {"tokens": 7}

    return make


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


# the processes of a distributed run


@pytest.fixture
def as_rank(monkeypatch: pytest.MonkeyPatch) -> threading.local:
    """Threads that stand for processes: those that set `.other` are not the first."""
    here = threading.local()
    monkeypatch.setattr(artifacts, "is_first_process", lambda: not getattr(here, "other", False))
    monkeypatch.setattr(job, "POLL", 0.02)
    return here


class Other:
    """Another process of the job, at work on an artifact."""

    def __init__(self, here: threading.local, artifact: Artifact, make: Any, **options: Any) -> None:
        self.found: list[str] = []
        self.errors: list[Exception] = []

        def work() -> None:
            here.other = True
            try:
                self.found.append((artifact.build(make, **options) / "file").read_text())
            except Exception as error:
                self.errors.append(error)

        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()

    def end(self) -> "Other":
        self.thread.join(timeout=10)
        assert not self.thread.is_alive(), "the other process waits for ever"
        return self


def slowly(content: str, calls: list[Path]) -> Callable[[Path], dict[str, Any]]:
    def make(folder: Path) -> dict[str, Any]:
        time.sleep(0.3)
        return writer(content, calls)(folder)

    return make


def test_other_processes_wait_for_what_the_first_makes(artifact: Artifact, as_rank: threading.local) -> None:
    calls: list[Path] = []
    with leading(artifact.root):
        other = Other(as_rank, artifact, slowly("wrong", calls))
        artifact.build(slowly("new", calls))
        assert other.end().found == ["new"]
    assert len(calls) == 1
    assert not list(artifact.root.glob("job-*"))


def test_what_is_made_together_is_made_by_all(artifact: Artifact, as_rank: threading.local) -> None:
    calls: list[Path] = []

    def join(folder: Path) -> dict[str, Any]:
        calls.append(folder)
        return {}

    with leading(artifact.root):
        other = Other(as_rank, artifact, join, together=True)
        artifact.build(slowly("new", calls), together=True)
        assert other.end().found == ["new"]
    assert calls == [artifact.partial] * 2


def test_what_another_job_makes_is_not_joined(artifact: Artifact, as_rank: threading.local) -> None:
    """The first process waits for the lock of another job; so nobody of this job makes it, and nobody hangs."""
    calls: list[Path] = []
    with leading(artifact.root):
        with artifact._locked():
            other = Other(as_rank, artifact, writer("wrong", calls), together=True)
            first = threading.Thread(target=artifact.build, args=[writer("wrong", calls)], daemon=True)
            first.start()
            time.sleep(0.2)
            artifact.partial.mkdir()
            artifact._finish(writer("theirs")(artifact.partial) | {"seconds": 0.0})
        first.join(timeout=10)
        assert other.end().found == ["theirs"]
    assert calls == []


def test_what_the_first_process_makes_again_is_joined_although_it_was_there(
    artifact: Artifact, as_rank: threading.local
) -> None:
    """Under torchrun all processes start at once: one that is early must not take what the first will discard."""
    artifact.build(writer("old"))
    calls: list[Path] = []
    with leading(artifact.root):
        other = Other(as_rank, artifact, writer("new", calls), together=True)
        time.sleep(0.1)
        artifact.discard()
        artifact.build(slowly("new", calls), together=True)
        assert other.end().found == ["new"]
    assert len(calls) == 2


def test_waiting_ends_when_the_first_process_is_killed(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    script = f"""
import sys, time
from pathlib import Path
from scae.artifacts import Artifact, leading
def make(folder):
    print(__import__("os").environ["SCAE_JOB"], flush=True)
    time.sleep(60)
with leading(Path({str(artifact.root)!r})):
    Artifact(Path({str(artifact.root)!r}), "pretrain", {{"k": 3}}, ("model-1",)).build(make)
"""
    first = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    monkeypatch.setenv(job.JOB, first.stdout.readline().strip())
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert job.hear(artifact.root, artifact.name, "make", "done") == "make"
    first.kill()
    first.wait()
    with pytest.raises(ArtifactError, match=rf"{artifact.name}: the first process of this job is gone"):
        artifact.build(writer())
    first.stdout.close()


def test_the_record_of_a_job_that_is_over_decides_nothing(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun may give the next job the same name."""
    monkeypatch.setattr(job, "POLL", 0.01)
    monkeypatch.setattr(job, "PATIENCE", 0.2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    artifact.root.mkdir()
    job._record(artifact.root).write_text(f"make {artifact.name}\n")
    with pytest.raises(ArtifactError, match="the first process of this job is gone"):
        artifact.build(writer("wrong"), together=True)
    assert not artifact.partial.exists()


def test_processes_of_one_launcher_find_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with leading(tmp_path):
        job.say(tmp_path, "done", "model-1")
        own = os.environ.pop(job.JOB)  # which only what Lightning starts inherits
        assert job.hear(tmp_path, "model-1", "done") == "done"
        monkeypatch.setenv("MASTER_PORT", "29501")
        assert not job.is_held(job._record(tmp_path))
        os.environ[job.JOB] = own


# damage, disks, commands


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


def test_which_process_is_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    assert is_first_process()
    for name in names:
        monkeypatch.setenv(name, "0")
        assert is_first_process()
    for name in names:
        monkeypatch.setenv(name, "1")
        assert not is_first_process()
        monkeypatch.setenv(name, "0")


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
