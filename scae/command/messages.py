"""What a user is told where a command cannot go on.

Hydra alone prints a misspelt key without the right spelling, and shows a traceback for every bad value.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from hydra.errors import CompactHydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from scae.config.errors import ConfigError, cannot_run, shortened, unknown_choice, unknown_key
from scae.core.failures import ArtifactError, NonFiniteError

EXPLAINED = (ConfigError, NonFiniteError, ArtifactError)  # their message says all, a traceback would hide it


def leave(message: str, code: int = 1) -> None:
    sys.stderr.write(message.rstrip() + "\n")
    sys.exit(code)


def message(error: Exception, failures: dict[Path, str]) -> str | None:
    """What to say instead of a traceback; None where the traceback is the message."""
    if failures:
        lines = [f"  {directory}: {reason}" for directory, reason in failures.items()]
        tables = {table for directory in failures if (table := directory.parent / "sweep.md").is_file()}
        return "\n".join(["these jobs failed:", *lines, *(f"the sweep's table: {table}" for table in tables)])
    if isinstance(error, EXPLAINED):
        return str(error)
    if isinstance(error, CompactHydraException):
        return _composition_message(error)
    if isinstance(error, YAMLError):
        return f"the configuration cannot run: {' '.join(str(error).split())}; allowed: plain YAML"
    files = error.__cause__ if isinstance(error.__cause__, OSError) else error  # logging hides it behind a ValueError
    if isinstance(files, OSError):
        return unusable(files)
    if isinstance(error, OmegaConfBaseException):
        return f"the configuration cannot run: {error.full_key}: {first_line(error)}"
    if isinstance(error, ValueError):  # how Hydra refuses flags that exclude each other, and group=null
        return f"{error} (the command line: {shortened(' '.join(sys.argv[1:]))})"
    return None


def unusable(error: OSError) -> str:
    """What is wrong outside the job: with a file of the configuration, or where the run is to be written."""
    return (
        f"the configuration cannot run: {error.filename2 or error.filename}: {error.strerror}; needed: a configuration "
        "that can be read, and a folder for the run that can be written (hydra.run.dir, hydra.sweep.dir)"
    )


def _composition_message(error: CompactHydraException) -> str:
    """Hydra's reason, with the nearest spelling; it advises `+`, which no key of this project needs."""
    cause = error.__cause__
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and isinstance(cause.parent_node, Mapping):
        return str(cannot_run([unknown_key(str(cause.full_key), map(str, cause.parent_node))]))
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return str(cannot_run([unknown_choice(group, choice, error.options)]))
    if isinstance(error, OverrideParseException):
        example = "'ckpt_path=\"epoch=1.ckpt\"'"
        override = shortened(str(error.override))
        return f"{override}: {first_line(error)}; a value with = , : or brackets needs quotes, like {example}"
    if isinstance(cause, OmegaConfBaseException):
        override = shortened(str(error).removeprefix("Error merging override "))
        needed = "a list where a list stands, a section where a section stands; every ${ closed by }"
        return str(cannot_run([f"{override}: {first_line(cause)}; needed: {needed}"]))
    lines = "\n".join(str(part) for part in (error, cause) if part is not None).splitlines()
    told = [line for line in lines if line and not line.startswith("To append to your default list")]
    return "\n".join(told) or type(error).__name__


def first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, EXPLAINED) else f"{type(error).__name__}: {text}"
