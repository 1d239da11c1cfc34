"""Artifacts that the processes of a distributed run wait for, or make together."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from making import writer

from scae.artifacts import Artifact, is_first_process, job, leading
from scae.artifacts import artifact as artifacts
from scae.core.failures import ArtifactError


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
