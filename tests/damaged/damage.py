"""Damage that any file can have, at places drawn from a seed; and what is wrong with how a damaged file ends.

It ends in one of two ways: it is read, or one error names the file and what is wrong with it. Good files are made once;
every case damages a copy, or puts something else in its place.
"""

import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scae.config import ConfigError
from scae.core.failures import ArtifactError

CLEAR = (ConfigError, ArtifactError, ValueError)  # a ValueError of ours names the file; the stages say how to repair it
LONGEST = 2_000  # characters of an error that a reader still takes in

Damage = Callable[[Path], None]


def flip(seed: int) -> Damage:
    """Change one byte."""

    def damage(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[random.Random(seed).randrange(len(content))] ^= 0xFF
        file.write_bytes(content)

    return damage


def cut(seed: int) -> Damage:
    def damage(file: Path) -> None:
        file.write_bytes(file.read_bytes()[: random.Random(seed).randrange(file.stat().st_size)])

    return damage


def becomes(content: bytes) -> Damage:
    return lambda file: file.write_bytes(content) and None


def gone(file: Path) -> None:
    file.unlink()


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


class Foreign:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.makedirs, ("executed",)


ANY: dict[str, Damage] = {
    **{f"flip {seed}": flip(seed) for seed in range(4)},
    **{f"cut {seed}": cut(seed) for seed in range(3)},
    "empty": becomes(b""),
    "zeros": becomes(bytes(1000)),
    "text": becomes(b"not what it should be\n"),
    "list": becomes(b"[1, 2]"),
    "null": becomes(b"null"),
    "deep": becomes(b"[" * 100_000),
    "foreign json": becomes(b'{"format": 3, "hyper_parameters": 1}'),
    "latin-1": becomes("\xe9t\xe9".encode("latin-1") * 50),
    "pickle": becomes(pickle.dumps(Foreign())),
    "a folder": a_folder,
    "gone": gone,
}


def surprise(read: Callable[[], object], file: Path, *names: str) -> str | None:
    """What is wrong with how reading ends; None where the file is read, or refused in one error that names it."""
    try:
        read()
    except CLEAR as error:
        told = str(error)
        if not any(name in told for name in (str(file), *names)):
            return f"the file is not named: {type(error).__name__}: {told[:300]}"
        return None if len(told) <= LONGEST else f"an error of {len(told):,} characters"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    return None
