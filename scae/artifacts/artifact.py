"""Directories named by what determines their content.

    artifacts/pretrain-3f2a9c01d4e7/            complete: artifact.json says what it was made from, when and how long
    artifacts/pretrain-3f2a9c01d4e7.partial/    under work, or interrupted: checkpoints lie here, a repeat resumes them
    artifacts/pretrain-3f2a9c01d4e7.lock        held while somebody works on it

The name is a hash of the configuration, of the names of the artifacts it was made from and of the version of its
stage, and nothing else; so two jobs that ask for the same thing get the same directory, and a name can be known before
anything is computed.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from scae.artifacts import job
from scae.artifacts.checkpoints import CHECKPOINT, damage_of
from scae.artifacts.disk import writing
from scae.artifacts.job import is_first_process
from scae.artifacts.provenance import commit, versions

log = logging.getLogger(__name__)
FORMAT = 1
NOTE = "artifact.json"
COMMAND = "SCAE_COMMAND"  # the name of the command, the same in all jobs of a sweep
CHECKED = (".safetensors", ".json")  # files whose loss is noticed; logs and checkpoints may be thrown away
FOLDERS = ("codes", "features")  # inside which it is, too; snapshots of training may be thrown away

Make = Callable[[Path], dict[str, Any]]
"""Writes the files into a folder and returns facts worth keeping, such as the tokens it took."""


@dataclass(frozen=True)
class Artifact:
    """root: the folder of all artifacts; kind: the first half of the name; made_from: plain values; upstream: names;
    version: of the code that makes this kind, see `scae.experiment.table`."""

    root: Path
    kind: str
    made_from: dict[str, Any]
    upstream: tuple[str, ...] = ()
    version: int = 1

    @cached_property
    def key(self) -> str:
        content = {"format": FORMAT, "kind": self.kind, "version": self.version}
        content |= {"made_from": self.made_from, "upstream": self.upstream}
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
        return (self.folder / NOTE).is_file()

    def facts(self) -> dict[str, Any]:
        """What `make` returned, with `seconds`."""
        return self._note()["facts"]

    def damage(self) -> str | None:
        """Of a complete artifact: the first file that is not as it was written; None where all are.

        Sizes are compared, not contents: that is what a full disk, a broken copy or a lost file changes.
        """
        note = self.folder / NOTE
        try:
            sizes, _facts = self._note()["files"].items(), self.facts()["seconds"]
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            return f"{note} is damaged ({type(error).__name__}: {error})"
        for name, size in sizes:
            file = self.folder / name
            if not file.is_file():
                return f"{file} is missing"
            if file.stat().st_size != size:
                return f"{file} is damaged (it has {file.stat().st_size:,} bytes, {size:,} were written)"
        return None

    def discard(self) -> None:
        """Remove it, so that the next build makes it again; what this very command has made stays."""
        if not (self.folder.exists() or self.partial.exists()):
            return
        with writing(self.folder), self._locked():
            if self.is_complete and self._is_of_this_command():
                return
            (self.folder / NOTE).unlink(missing_ok=True)  # first, so that no half of it looks complete
            shutil.rmtree(self.folder, ignore_errors=True)
            shutil.rmtree(self.partial, ignore_errors=True)

    def build(self, make: Make, *, together: bool = False) -> Path:
        """The folder, made now if it is not there yet; one process makes it, others wait.

        together: the processes of a distributed run call `make` at the same time, and only the first of them writes.

        Raises ArtifactError where the folder cannot be written, or the first process of this run has ended.
        """
        if is_first_process():
            self._lead(make)
        else:
            self._follow(make if together else None)
        return self.folder

    def _lead(self, make: Make) -> None:
        """Decide whether it has to be made, and make it."""
        if not self.is_complete:
            with writing(self.folder):
                self.root.mkdir(parents=True, exist_ok=True)
                with self._locked():
                    if not self.is_complete:
                        self._make(make)
        job.say(self.root, "done", self.name)

    def _follow(self, make: Make | None) -> None:
        """Do what the first process of this run has decided, and wait for its end."""
        try:
            decision = job.hear(self.root, self.name, "make", "done")
            if decision == "make" and make is not None:
                make(self.partial)
            job.hear(self.root, self.name, "done")
        except job.FirstProcessGone:
            if not self.is_complete:  # it may have come to its end between two looks
                raise

    def _make(self, make: Make) -> None:
        checkpoint = self.partial / CHECKPOINT
        if checkpoint.exists() and (damage := damage_of(checkpoint)):
            log.warning("%s is damaged (%s): the stage starts again", checkpoint, damage)
            shutil.rmtree(self.partial)
        self.partial.mkdir(exist_ok=True)
        job.say(self.root, "make", self.name)
        started = time.monotonic()
        facts = make(self.partial)
        self._finish(facts | {"seconds": round(time.monotonic() - started, 3)})

    def _finish(self, facts: dict[str, Any]) -> None:
        inside = (path for folder in FOLDERS for path in (self.partial / folder).rglob("*"))
        there = (*self.partial.iterdir(), *inside)
        files = sorted(path for path in there if path.suffix in CHECKED and path.is_file())
        note = {
            "name": self.name,
            "version": self.version,
            "made_from": self.made_from,
            "upstream": list(self.upstream),
            "facts": facts,
            "files": {str(file.relative_to(self.partial)): file.stat().st_size for file in files if file.name != NOTE},
            "versions": versions(),
            "commit": commit(),
            "command": os.environ.get(COMMAND),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        (self.partial / NOTE).write_text(json.dumps(note, indent=2) + "\n")
        shutil.rmtree(self.folder, ignore_errors=True)  # what an interrupted `discard` has left
        self.partial.replace(self.folder)

    def _note(self) -> dict[str, Any]:
        return json.loads((self.folder / NOTE).read_text())

    def _is_of_this_command(self) -> bool:
        command = os.environ.get(COMMAND)
        return command is not None and self.damage() is None and self._note()["command"] == command

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with locked(self.root / f"{self.name}.lock", self.name):
            yield


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
