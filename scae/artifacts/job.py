"""The processes of a distributed job do what its first one decides.

    artifacts/job-5f0c21d9a3b7      what it has decided, a line each; it holds a lock on this file while it lives

There is no process group to tell them with: Lightning starts the others in the middle of the first stage that they
share, and a stage may wait for hours on the lock of another job. So the first process writes `make NAME` before it
begins and `done NAME` once an artifact is there. The others follow what is written and never look at the disk, which
another job may change in between. A file that nobody has locked is that of a job that is over.
"""

import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from scae.artifacts.disk import writing
from scae.core.failures import ArtifactError

JOB = "SCAE_JOB"  # the name of the job, which the processes that Lightning starts inherit
POLL = 0.2  # seconds between two looks at what the first process has decided
PATIENCE = 300.0  # seconds in which the first process must begin, where a launcher starts all at once

Decision = Literal["make", "done"]


class FirstProcessGone(ArtifactError):
    """The first process has ended, and what it was to make is not there."""


def is_first_process() -> bool:
    """Whether this process writes the files of a distributed run."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK"))


def launched_by_others() -> bool:
    """Whether torchrun or srun has started the processes of this job, and not Lightning."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 or int(os.environ.get("SLURM_NTASKS", "1")) > 1


@contextmanager
def leading(root: Path) -> Iterator[None]:
    """Be the first process of a job: `say` is heard by the others until the end of the block."""
    before = os.environ.get(JOB)
    os.environ[JOB] = _name_from_launcher() if launched_by_others() else uuid.uuid4().hex[:12]
    path = _record(root)
    try:
        with writing(path):
            root.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    finally:
        path.unlink(missing_ok=True)
        os.environ.pop(JOB)
        if before is not None:
            os.environ[JOB] = before


def say(root: Path, decision: Decision, name: str) -> None:
    """Tell the other processes, where there are any."""
    if JOB in os.environ:
        with _record(root).open("a") as file:
            file.write(f"{decision} {name}\n")


def hear(root: Path, name: str, *wanted: Decision) -> Decision:
    """Wait until the latest that the first process says about an artifact is one of `wanted`.

    Raises FirstProcessGone where it says nothing more.
    """
    path = _record(root)
    started_by_first = JOB in os.environ
    patience_ends = time.monotonic() + (0 if started_by_first else PATIENCE)
    while is_held(path) or time.monotonic() < patience_ends:
        if is_held(path):  # so what is read next was written by a process that lives, and not by an earlier job
            patience_ends = 0.0
            said = _read(path).get(name)
            if said in wanted:
                return said
        time.sleep(POLL)
    raise FirstProcessGone(
        f"{name}: the first process of this job is gone, and nobody makes it; repeat the command, it continues where "
        "it stopped"
    )


def is_held(path: Path) -> bool:
    """Whether a first process holds the record of its job; looking disturbs nobody."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _record(root: Path) -> Path:
    return root / f"job-{os.environ.get(JOB) or _name_from_launcher()}"


def _read(path: Path) -> dict[str, Decision]:
    """The latest decision on each artifact; a line that is still being written is left for the next look."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    decisions: dict[str, Decision] = {}
    for line in text[: text.rfind("\n") + 1].splitlines():
        decision, _, name = line.partition(" ")
        decisions[name] = "make" if decision == "make" else "done"
    return decisions


def _name_from_launcher() -> str:
    """What the processes that torchrun or srun has started have in common, and those of another job have not."""
    shared = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "SLURM_JOB_ID", "SLURM_STEP_ID")
    values = [os.environ.get(name, "") for name in (*shared, "MASTER_ADDR", "MASTER_PORT")]
    return hashlib.sha256("\n".join(values).encode()).hexdigest()[:12]
