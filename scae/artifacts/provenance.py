"""Which code makes a thing: versions and commit, for whoever asks years later. Imports none of what it names."""

import functools
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("scae", "torch", "transformers", "transformer_lens", "lightning")


@functools.cache
def versions() -> dict[str, str | None]:
    """The version of Python and of the packages that decide numbers; None where one is run without being installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


@functools.cache
def commit() -> str | None:
    """The commit of this code, with `-dirty` where files differ from it; None outside a repository."""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            describe, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
