"""Medians, peak memory, and what machine this is. Imports torch alone, so that the peers' environments can too."""

import ctypes
import gc
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

PATIENCE_S = 20.0  # a run that takes longer is not repeated: what it costs cold is nothing against it
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
"""The environment under which a process keeps freed memory (`scae.core.memory`): the same for ours and theirs."""


@dataclass
class Samples:
    """How long the runs of one contestant took, and what the very first one returned."""

    seconds: list[float] = field(default_factory=list)
    first: Any = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def interleaved(
    contestants: Mapping[str, Callable[[], Any]], *, device: str, rounds: int, patience_s: float = PATIENCE_S
) -> dict[str, Samples]:
    """Run a, b, a, b, ...: `rounds` times each after one run to warm up.

    A contestant whose first run takes longer than `patience_s` runs no second time, and that run counts.
    """
    samples = {name: Samples() for name in contestants}
    gc.collect()
    for number in range(rounds + 1):
        for name, run in contestants.items():
            one = samples[name]
            if number and one.seconds[0] > patience_s:
                continue
            seconds, result = timed(run, device)
            one.seconds.append(seconds)
            if number == 0:
                one.first = result
    for one in samples.values():
        if len(one.seconds) > 1:
            del one.seconds[0]
    return samples


def timed(run: Callable[[], Any], device: str) -> tuple[float, Any]:
    """The seconds that a call takes, until the device has done its work, and what it returns."""
    synchronise(device)
    start = time.perf_counter()
    result = run()
    synchronise(device)
    return time.perf_counter() - start, result


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def peak_bytes(run: Callable[[], Any], device: str) -> int:
    """The memory that a call takes at its peak, above the level before it."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    release_freed_memory()
    before = start_peak()
    run()
    return max(0, peak() - before)


def release_freed_memory() -> None:
    """Give freed blocks back to the kernel, so that the level before a step holds nothing that the step may reuse."""
    if sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)


def start_peak() -> int:
    """Forget the peak of this process so far, where the kernel lets us; returns the level now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:  # no Linux, or not allowed: then the peak so far is the level, and smaller rises go unseen
        return peak()


def peak() -> int:
    """The most memory that this process has held, in bytes."""
    if Path("/proc/self/status").exists():
        return _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")


def machine(device: str) -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_before": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
