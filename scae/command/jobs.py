"""One job of a command, the record that it leaves, and the table of a sweep.

Hydra calls no callback at the end of a sweep in which a job failed, so every job brings the table up to date.
"""

import functools
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from scae.artifacts import is_first_process
from scae.artifacts.provenance import commit
from scae.command.messages import EXPLAINED, leave, one_line, unusable
from scae.command.relaunch import is_launched, overrides, pin_job_argv, release_job, stop_processes
from scae.config.errors import ConfigError
from scae.core.stopping import Stopped
from scae.core.whole_files import write_text

log = logging.getLogger(__name__)

Task = Callable[[DictConfig], float | None]


def run_job(task: Task, config: DictConfig, inherited: frozenset[str], failures: dict[Path, str]) -> float | None:
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
        leave(unusable(error))
    try:
        if multirun and "TORCHELASTIC_RUN_ID" in os.environ:
            raise ConfigError("torchrun starts the processes of one job, not a sweep; leave out -m, or use trainer=ddp")
        pin_job_argv()
        result = task(config)
    except Exception as error:
        if "LOCAL_RANK" not in inherited:
            stop_processes()
        write("failed", one_line(error))
        if isinstance(error, EXPLAINED):
            log.error("%s", error)
        else:
            log.exception("the job failed; its directory is %s", directory)
        failures[directory] = one_line(error)
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
