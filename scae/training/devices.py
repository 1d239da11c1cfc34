"""Where an experiment runs: its fits and the stages between them, on the same device."""

import os
from typing import Literal

import torch

from scae.config import ConfigError, TrainerConfig


def accelerator(wanted: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
    """What `auto` stands for: the GPU where there is one; never Apple's, which has no float64 for the metrics."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wanted


def device(wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device of this process; of several on one machine, each has its own GPU from the start."""
    if accelerator(wanted) == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0))


def check_devices(trainer: TrainerConfig) -> None:
    """Raises ConfigError where this machine has less than is asked for; Lightning says so after minutes of work."""
    gpus = torch.cuda.device_count()
    if trainer.accelerator == "cuda" and gpus == 0:
        raise ConfigError(
            "trainer.accelerator=cuda: torch finds no GPU on this machine; allowed here: auto, cpu (for example "
            "trainer=auto)"
        )
    wanted = trainer.devices
    if accelerator(trainer.accelerator) == "cuda" and wanted != "auto" and wanted > gpus:
        raise ConfigError(
            f"trainer.devices={wanted}: torch finds {gpus} GPUs on this machine; allowed here: 1 to {gpus}"
        )
