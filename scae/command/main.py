"""The command: Hydra around one task, with one message for a mistake of the user instead of a traceback."""

import functools
import inspect
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
from omegaconf import DictConfig

from scae.artifacts.artifact import COMMAND
from scae.command.jobs import Task, run_job
from scae.command.messages import leave, message
from scae.command.relaunch import DEPTH, check_launch, end_with_parent, is_launched
from scae.core.openmp import CHOSEN, sleep_beside_others
from scae.core.stopping import Stopped, stops_at_signals


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
                    logging.getLogger(__name__).info(CHOSEN)
                return run_job(task, config, inherited, failures)

            start = hydra.main(version_base="1.3", config_path=folder, config_name=config_name)(job)
            with _environment(), stops_at_signals():
                try:
                    check_launch()
                    if is_launched():
                        end_with_parent()
                    start()
                except Stopped as stop:
                    leave(stop.args[0], stop.status)
                except Exception as error:
                    told = message(error, failures)
                    if show_all or told is None:
                        raise
                    leave(told)

        return main

    return decorate


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
