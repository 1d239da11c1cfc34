"""What lies in a folder of artifacts: how large it is, who uses it, and what nobody would miss.

A run that came to its end names its artifacts in `run.json`, and an artifact names what it was made from. Tokens and
choices of a separator are named by nobody: they belong to whatever was made from the same text.
"""

import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from scae.artifacts.job import is_held
from scae.config import STAGES
from scae.core.failures import ArtifactError

UNFINISHED = (".partial", ".tmp")
KINDS = (*STAGES, "separator", "tokens", "job")
_OURS = re.compile(rf"\.?({'|'.join(KINDS)})-[0-9a-f]{{12,16}}(\.partial|\.tmp)?")


@dataclass
class Entry:
    """A folder of artifacts, or a file that a job has left.

    size: bytes; note: what artifact.json says, empty where it cannot be read; users: the names of the artifacts made
    from it and the run directories that name it.
    """

    path: Path
    size: int
    note: dict[str, Any]
    locked: bool
    users: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def state(self) -> str:
        if self.locked:
            return "under work"
        if self.name.startswith("job-"):
            return "left by a killed job"
        if self.path.suffix in UNFINISHED:
            return "interrupted"
        return "complete" if self.note else "damaged"


def inventory(root: Path, runs: Path) -> list[Entry]:
    """Everything in `root`, by name, used by the finished runs below `runs`.

    Raises ArtifactError where one of the folders is not there: without runs, everything would look unused.
    """
    for what, folder in (("--artifacts", root), ("--runs", runs)):
        if not folder.is_dir():
            raise ArtifactError(f"{what}={folder}: no such folder")
    entries = {path.name: _entry(path) for path in sorted(root.iterdir()) if _is_ours(path)}
    for run in sorted(runs.rglob("run.json")):
        for name in _named_by(run, root):
            _use(entries, name, str(run.parent))
    return list(entries.values())


def unused(entries: Iterable[Entry]) -> list[Entry]:
    """What no finished run needs and nobody works on; nothing while anybody works here, whose inputs are not known."""
    entries = list(entries)
    if any(entry.locked for entry in entries):
        return []
    return [entry for entry in entries if not entry.users]


def remove(entry: Entry) -> bool:
    """Remove it under its lock; False where somebody has begun to work on it."""
    if entry.path.is_file():
        entry.path.unlink(missing_ok=True)
        return True
    lock = FileLock(_lock_of(entry.path))
    try:
        with lock.acquire(timeout=0):
            (entry.path / "artifact.json").unlink(missing_ok=True)  # first, so that no half of it looks complete
            shutil.rmtree(entry.path)
    except Timeout:
        return False
    return True


def _is_ours(path: Path) -> bool:
    return _OURS.fullmatch(path.name) is not None and path.is_dir() != path.name.startswith("job-")


def _entry(path: Path) -> Entry:
    if path.is_file():
        return Entry(path, path.stat().st_size, {}, is_held(path))
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Entry(path, size, _read(path / "artifact.json"), path.suffix in UNFINISHED and _is_locked(path))


def _lock_of(path: Path) -> Path:
    """`x.lock` of `x`, `x.partial` and `.x.tmp`."""
    return path.with_name(f"{path.name.removeprefix('.').removesuffix('.partial').removesuffix('.tmp')}.lock")


def _is_locked(path: Path) -> bool:
    try:
        with FileLock(_lock_of(path)).acquire(timeout=0):
            return False
    except Timeout:
        return True


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _named_by(run: Path, root: Path) -> list[str]:
    """The names of the artifacts in `root` that a run.json points to."""
    note = _read(run)
    paths = [*note.get("stages", {}).values(), note.get("model", {}).get("path") or "."]
    found = [(run.parent / path).resolve() for path in paths]
    return [path.name for path in found if path.parent == root.resolve()]


def _use(entries: dict[str, Entry], name: str, user: str) -> None:
    """Note who uses an artifact, and that it uses in turn what it was made from."""
    entry = entries.get(name)
    if entry is None or user in entry.users:
        return
    first = not entry.users
    entry.users.append(user)
    if not first:
        return
    made_from = entry.note.get("made_from", {})
    for other in entries.values():
        if other.name in entry.note.get("upstream", []) or (other is not entry and _is_text_of(other, made_from)):
            _use(entries, other.name, name)


def _is_text_of(other: Entry, made_from: dict[str, Any]) -> bool:
    """Whether these are the tokens, or the separator, of the text that something was made from."""
    theirs = other.note.get("made_from", {})
    same = made_from.get("corpus") is not None and theirs.get("corpus") == made_from["corpus"]
    kind = other.name.partition("-")[0]
    return same and (kind == "separator" or (kind == "tokens" and theirs.get("data") == made_from.get("data")))
