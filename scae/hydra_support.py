"""Between Hydra and the experiment: the command and its errors, and the record of every job.

Hydra alone prints a misspelt key without the right spelling, shows a traceback for every bad value, and calls no
callback at the end of a sweep in which a job failed. Nothing here imports torch before the experiment does.
"""

import functools
import inspect
import json
import logging
import os
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, InterpolationKeyError, OmegaConfBaseException
from yaml import YAMLError

from scae.artifacts import is_first_process
from scae.artifacts.artifact import COMMAND
from scae.config import Config
from scae.config.errors import (
    ConfigError,
    cannot_run,
    known_keys,
    lookup,
    missing_value,
    nearest,
    shortened,
    unknown_choice,
    unknown_key,
)
from scae.failures import ArtifactError, NonFiniteError
from scae.openmp import CHOSEN, sleep_beside_others
from scae.provenance import commit
from scae.relaunch import (
    DEPTH,
    check_launch,
    end_with_parent,
    is_launched,
    overrides,
    pin_job_argv,
    release_job,
    stop_processes,
)
from scae.stopping import Stopped, stops_at_signals
from scae.whole_files import write_text

log = logging.getLogger(__name__)
EXPLAINED = (ConfigError, NonFiniteError, ArtifactError)  # their message says all, a traceback would hide it

Task = Callable[[DictConfig], float | None]


def command(*, config_path: str, config_name: str) -> Callable[[Task], Callable[[], None]]:
    """`hydra.main`, with one message for a mistake of the user, and a `job.json` in the directory of every job."""

    def decorate(task: Task) -> Callable[[], None]:
        folder = str(Path(inspect.getfile(task)).resolve().parent / config_path)

        @functools.wraps(task)
        def main() -> None:
            failures: dict[Path, str] = {}
            asleep = sleep_beside_others(os.environ)
            inherited = frozenset(os.environ)
            show_all = os.environ.get("HYDRA_FULL_ERROR") == "1" and DEPTH not in os.environ

            @functools.wraps(task)
            def job(config: DictConfig) -> float | None:
                if asleep:
                    log.info(CHOSEN)
                return _run_job(task, config, inherited, failures)

            start = hydra.main(version_base="1.3", config_path=folder, config_name=config_name)(job)
            with _environment(), stops_at_signals():
                try:
                    check_launch()
                    if is_launched():
                        end_with_parent()
                    start()
                except Stopped as stop:
                    _leave(stop.args[0], stop.status)
                except Exception as error:
                    message = _message(error, failures)
                    if show_all or message is None:
                        raise
                    _leave(message)

        return main

    return decorate


def values(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, without the hydra node; raises ConfigError where a value is not there."""
    task = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    raw: Any = OmegaConf.to_container(task, resolve=False)
    missing = [key for key in _dotted(raw) if lookup(raw, key.split(".")) == "???"]
    if missing:
        raise cannot_run(missing_value(key, raw, Config) for key in missing)
    if HydraConfig.initialized():
        if problems := list(_preset_problems(raw)):
            raise cannot_run(problems)
        if is_first_process():
            _warn_of_unread_l0(raw)
    try:
        resolved: Any = OmegaConf.to_container(task, resolve=True)
    except OmegaConfBaseException as error:
        raise cannot_run([_interpolation_problem(error, raw)]) from None
    return resolved


def _preset_problems(raw: Mapping[str, Any]) -> Iterator[str]:
    """The keys that a preset sets although the choices beside it do not have them."""
    job = HydraConfig.get().runtime
    folders = [Path(source.path) for source in job.config_sources if source.schema == "file"]
    for group in ("experiment", "local"):
        names = (folder / group / f"{job.choices.get(group)}.yaml" for folder in folders)
        file = next((name for name in names if name.is_file()), None)
        preset: Any = OmegaConf.to_container(OmegaConf.load(file)) if file is not None else {}
        for key in _dotted(preset):
            *parents, name = key.split(".")
            allowed = known_keys(parents, raw, Config)
            if allowed and name not in allowed and name in (lookup(raw, parents) or {}):
                yield f"{unknown_key(key, allowed)}; {group}={job.choices[group]} sets it, `~{key}` takes it back"


def _warn_of_unread_l0(raw: Mapping[str, Any]) -> None:
    """No error: in a sweep over types of dictionaries, one type reads it and another does not."""
    typed = any(part.startswith("l0=") for part in overrides(HydraConfig.get().overrides.task))
    if typed and "${l0}" not in json.dumps(raw):
        choice = HydraConfig.get().runtime.choices["sae"]
        log.warning("l0=%s is not read: sae=%s decides otherwise how many features are active", raw["l0"], choice)


# One job.


def _run_job(task: Task, config: DictConfig, inherited: frozenset[str], failures: dict[Path, str]) -> float | None:
    """Run the task, log what goes wrong in the log of the job, and leave a record of how it ended."""
    multirun = HydraConfig.get().mode == RunMode.MULTIRUN
    directory = Path(HydraConfig.get().runtime.output_dir)
    first_process = is_first_process()
    if not first_process:
        logging.getLogger().setLevel(logging.WARNING)  # the first process says it for all
    write = functools.partial(_write_record, directory, time.monotonic()) if first_process else _no_record
    try:
        write("running", None)
    except OSError as error:
        _leave(_unusable(error))
    try:
        if multirun and "TORCHELASTIC_RUN_ID" in os.environ:
            raise ConfigError("torchrun starts the processes of one job, not a sweep; leave out -m, or use trainer=ddp")
        pin_job_argv()
        result = task(config)
    except Exception as error:
        if "LOCAL_RANK" not in inherited:
            stop_processes()
        write("failed", _one_line(error))
        if isinstance(error, EXPLAINED):
            log.error("%s", error)
        else:
            log.exception("the job failed; its directory is %s", directory)
        failures[directory] = _one_line(error)
        if multirun:
            raise  # the other jobs still run
        raise SystemExit(1) from error  # said already; Hydra would say it again
    except Stopped as stop:
        if "LOCAL_RANK" not in inherited:
            stop_processes()
        write("stopped", stop.args[0])
        if first_process:
            log.warning("%s", stop)
        # The process that started this one says how the job ended, and would be killed if this one failed before it.
        raise SystemExit(0 if is_launched() else stop.status) from stop
    except BaseException as error:
        write("failed", f"interrupted ({type(error).__name__})")
        raise
    finally:
        release_job(inherited)
    write("completed", None)
    return result


def _write_record(directory: Path, started: float, status: str, error: str | None) -> None:
    """`job.json`, from which a report knows the job whether or not it came to an end."""
    job = HydraConfig.get()
    record = {
        "status": status,
        "error": error,
        "overrides": overrides(job.overrides.task),
        "choices": {group: name for group, name in job.runtime.choices.items() if not group.startswith("hydra/")},
        "commit": commit(),
        "seconds": round(time.monotonic() - started, 3),
    }
    write_text(directory / "job.json", json.dumps(record, indent=2) + "\n")


def _no_record(status: str, error: str | None) -> None:
    """The other processes of a job leave the record to the first."""


@contextmanager
def _environment() -> Iterator[None]:
    """Have Hydra raise its errors instead of printing them, count the launches, and give the command a name that the
    processes started for its jobs inherit; all of it ends with the command."""
    before = {name: os.environ.get(name) for name in ("HYDRA_FULL_ERROR", DEPTH, COMMAND)}
    os.environ["HYDRA_FULL_ERROR"] = "1"
    os.environ[COMMAND] = before[COMMAND] or uuid.uuid4().hex[:12]
    os.environ[DEPTH] = str(int(before[DEPTH] or 0) + 1)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


# What a user is told.


def _leave(message: str, code: int = 1) -> None:
    sys.stderr.write(message.rstrip() + "\n")
    sys.exit(code)


def _message(error: Exception, failures: dict[Path, str]) -> str | None:
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
        return _unusable(files)
    if isinstance(error, OmegaConfBaseException):
        return f"the configuration cannot run: {error.full_key}: {_first_line(error)}"
    if isinstance(error, ValueError):  # how Hydra refuses flags that exclude each other, and group=null
        return f"{error} (the command line: {shortened(' '.join(sys.argv[1:]))})"
    return None


def _unusable(error: OSError) -> str:
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
        return f"{override}: {_first_line(error)}; a value with = , : or brackets needs quotes, like {example}"
    if isinstance(cause, OmegaConfBaseException):
        override = shortened(str(error).removeprefix("Error merging override "))
        needed = "a list where a list stands, a section where a section stands; every ${ closed by }"
        return str(cannot_run([f"{override}: {_first_line(cause)}; needed: {needed}"]))
    return "\n".join(str(part) for part in (error, cause) if part is not None and str(part)) or type(error).__name__


def _interpolation_problem(error: OmegaConfBaseException, raw: Mapping[str, Any]) -> str:
    key = str(error.full_key).partition("[")[0]
    found = lookup(raw, key.split("."))
    wanted = re.search(r"Interpolation key '([^']+)'", str(error))
    hint = nearest(wanted[1], _dotted(raw)) if isinstance(error, InterpolationKeyError) and wanted else ""
    return f"{key}={found}: {_first_line(error)}{hint}"


def _dotted(raw: Mapping[str, Any], parent: str = "") -> Iterator[str]:
    for key, value in raw.items():
        yield f"{parent}{key}"
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{parent}{key}.")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, EXPLAINED) else f"{type(error).__name__}: {text}"


class SweepReport(Callback):
    """Keep the table of a sweep up to date after every job, because Hydra calls nothing at the end if one failed."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        try:
            from scae.report import write_sweep

            write_sweep(_sweep_directory(config))
        except Exception as error:  # the job itself is done, and the table can be made later from the files
            log.warning("no table of the sweep so far: %s: %s", type(error).__name__, error)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        log.info("the sweep is done; its table: %s", _sweep_directory(config) / "sweep.md")


def _sweep_directory(config: DictConfig) -> Path:
    return Path(config.hydra.runtime.cwd) / config.hydra.sweep.dir


class ConsoleFormatter(logging.Formatter):
    """`[12:01:33] message`, and the level only where it is worse than INFO."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname}: " if record.levelno > logging.INFO else ""
        return f"[{self.formatTime(record, '%H:%M:%S')}] {level}{record.message}"
