"""Lightning's `ddp` inside a Hydra command: it starts the other processes of a job by running `sys.argv` again.

Under `-m` that would be the whole sweep again, in a directory of another time stamp; and what a job leaves in the
environment would make the next one pair up with the wrong processes.
"""

import os
import sys
import threading
import time
from typing import Any

from hydra._internal.utils import get_args_parser  # the one place that knows Hydra's flags
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, read_write

from scae.config.errors import ConfigError

RANK_VARIABLES = (
    "LOCAL_RANK",
    "NODE_RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)  # Lightning's launcher sets them
DEPTH = "SCAE_LAUNCH_DEPTH"  # 0: what the user typed; 1: a process that Lightning started for another device
LOOK = 1.0  # seconds between two looks at whether the process that started this one is still there


def pin_job_argv() -> None:
    """Make sys.argv mean this job, run alone in the job's own directory, and not the whole sweep again.

    Flags come first, because Lightning appends overrides and argparse takes no second group of them after a flag.
    """
    job: Any = HydraConfig.get()
    flags = get_args_parser().parse_args(sys.argv[1:])
    kept = [f"--{name.replace('_', '-')}={value}" for name in ("config_path", "config_name", "config_dir")
            if (value := getattr(flags, name)) is not None]  # fmt: skip
    ours = [part for part in overrides(job.overrides.hydra) if not part.lstrip("+").startswith("hydra.mode=")]
    sys.argv = [sys.argv[0], *kept, *ours, *overrides(job.overrides.task), "hydra.mode=RUN"]
    with read_write(job):
        job.run.dir = job.runtime.output_dir  # what Lightning passes on as hydra.run.dir


def release_job(inherited: frozenset[str]) -> None:
    """Forget the process group of a job, so that the next job of the sweep starts its own.

    Only in the process that launched the others: without LOCAL_RANK the others would launch processes themselves.
    """
    if "LOCAL_RANK" in inherited:
        return
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
    for name in RANK_VARIABLES:
        if name not in inherited:
            os.environ.pop(name, None)


def stop_processes() -> None:
    """End the processes that Lightning started for a job that failed or was stopped, and the thread that watches them.

    They would wait for this process in their next collective; and the thread kills this process, with the jobs of the
    sweep that are still to come, when one of them ends with an error (seen, Lightning 2.6).
    """
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            for child in getattr(thread, "_child_processes", []):
                child.kill()
                child.wait()
            vars(thread)["_child_processes"] = []


def is_launched() -> bool:
    """Whether Lightning started this process for another device of a job."""
    return int(os.environ[DEPTH]) > 1


def end_with_parent() -> None:
    """Let this process end when the one that started it is gone, killed perhaps: it could wait for it for ever."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def check_launch() -> None:
    """Refuse two ways to start that do not end well: a chain of relaunches, and torchrun without a directory."""
    depth = int(os.environ[DEPTH])
    if depth > 2 or (depth == 2 and "LOCAL_RANK" not in os.environ):
        raise ConfigError(f"{DEPTH}={depth - 1}: a process that was started for a job starts jobs again; stopped here")
    if "TORCHELASTIC_RUN_ID" in os.environ and not any(part.startswith("hydra.run.dir=") for part in sys.argv):
        raise ConfigError(
            "torchrun: every process would write into a directory of its own time stamp; "
            "give them one, for example hydra.run.dir=multirun/my-run, or let Lightning start them: trainer=ddp"
        )


def overrides(written: Any) -> list[str]:
    """As they were typed: an interpolation in an override is text here, to be resolved where its key is."""
    plain: Any = OmegaConf.to_container(written, resolve=False)
    return [str(override) for override in plain]
