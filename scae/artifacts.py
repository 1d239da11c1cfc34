"""Directories named by what determines their content.

    artifacts/pretrain-3f2a9c01d4e7/            complete: artifact.json says what it was made from, when and how long
    artifacts/pretrain-3f2a9c01d4e7.partial/    under work, or interrupted: checkpoints lie here, a repeat resumes them
    artifacts/pretrain-3f2a9c01d4e7.lock        held while somebody works on it

The name is a hash of the configuration and of the names of the artifacts it was made from, and nothing else; so two
jobs that ask for the same thing get the same directory, and a name can be known before anything is computed.
"""

import hashlib
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)
FORMAT = 1
POLL = 0.5  # seconds between two looks of a process that waits for another's artifact

Make = Callable[[Path], dict[str, Any]]
"""Writes the files into a folder and returns facts worth keeping, such as the tokens it took."""


@dataclass(frozen=True)
class Artifact:
    """root: the folder of all artifacts; kind: the first half of the name; made_from: plain values; upstream: names."""

    root: Path
    kind: str
    made_from: dict[str, Any]
    upstream: tuple[str, ...] = ()

    @cached_property
    def key(self) -> str:
        content = {"format": FORMAT, "kind": self.kind, "made_from": self.made_from, "upstream": self.upstream}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.key}"

    @property
    def folder(self) -> Path:
        return self.root / self.name

    @property
    def partial(self) -> Path:
        return self.root / f"{self.name}.partial"

    @property
    def is_complete(self) -> bool:
        return (self.folder / "artifact.json").is_file()

    def facts(self) -> dict[str, Any]:
        """What `make` returned, with `seconds`."""
        return json.loads((self.folder / "artifact.json").read_text())["facts"]

    def discard(self) -> None:
        """Remove it, so that the next build makes it again."""
        (self.folder / "artifact.json").unlink(missing_ok=True)  # first, so that no half of it ever looks complete
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.partial, ignore_errors=True)

    def build(self, make: Make, *, together: bool = False) -> Path:
        """The folder, made now if it is not there yet; one process makes it, others wait.

        together: the processes of a distributed run call `make` at the same time, and only the first of them writes.
        """
        if self.is_complete:
            return self.folder
        if not is_first_process():
            if together:
                make(self.partial)
            self._wait()
            return self.folder
        self.root.mkdir(parents=True, exist_ok=True)
        with locked(self.root / f"{self.name}.lock", f"{self.name}"):
            if self.is_complete:
                return self.folder
            self.partial.mkdir(exist_ok=True)
            started = time.monotonic()
            facts = make(self.partial)
            self._finish(facts | {"seconds": round(time.monotonic() - started, 3)})
        return self.folder

    def _finish(self, facts: dict[str, Any]) -> None:
        note = {
            "name": self.name,
            "made_from": self.made_from,
            "upstream": list(self.upstream),
            "facts": facts,
            "python": platform.python_version(),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        (self.partial / "artifact.json").write_text(json.dumps(note, indent=2) + "\n")
        shutil.rmtree(self.folder, ignore_errors=True)  # what an interrupted `discard` has left
        self.partial.replace(self.folder)

    def _wait(self) -> None:
        while not self.is_complete:
            time.sleep(POLL)


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a file lock; says whom it waits for."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting for the process that makes %s (it holds %s)", what, path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def is_first_process() -> bool:
    """Whether this process writes the files of a distributed run."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK"))


def fingerprint(folder: Path) -> str:
    """What a directory of files holds: their names and all of their content (measured: 2 s for 1 GiB)."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.name}:{content}\n".encode())
    return digest.hexdigest()[:16]
