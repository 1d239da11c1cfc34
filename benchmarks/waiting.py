"""Threads that sleep while they wait for each other against threads that spin, alone and beside busy processes.

A run of each takes turns in processes of their own, because OpenMP reads the policy once. What `python train.py` does
about it stands in `scae/openmp.py`.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.measure import Samples
from benchmarks.rows import Row, say
from benchmarks.synthetic import QUICK, Sizes
from benchmarks.worker import Case, measured
from scae.core.openmp import POLICY

SIZES = Sizes(layers=4, d_model=128, heads=4, features=512, k=16, C=32, windows=8, context=128)
POLICIES = {"asleep": "PASSIVE", "spinning": None}


def run(*, quick: bool, device: str, sizes: Sizes | None = None, turns: int | None = None) -> list[Row]:
    """A row for a machine without other work of ours, and one beside as many busy processes as it has cores."""
    sizes = sizes or (QUICK if quick else SIZES)
    values = {"sizes": sizes.plain(), "connections": "random", "device": device, "mode": "pruned"}
    case = Case("suite_steps.suite_step", values, rounds=5)
    rows = []
    for name, count in (("alone", 0), ("beside busy processes", os.cpu_count() or 1)):
        samples = {who: Samples() for who in POLICIES}
        with _busy(count):
            for turn in range(turns or (1 if quick else 5)):
                say(f"waiting: {name}, turn {turn + 1}")
                for who, policy in POLICIES.items():
                    (result,) = measured([case], device=device, keep_freed=True, environment={POLICY: policy})
                    samples[who].seconds += result["seconds"]
        ours, theirs = samples["asleep"], samples["spinning"]
        rows.append(
            Row(
                name=name,
                ratio=theirs.median / ours.median,
                ratio_is=f"a pruned step with {POLICY} unset / with {POLICY}=PASSIVE",
                ours_s=ours.median,
                baseline_s=theirs.median,
                ours_bytes=None,
                baseline_bytes=None,
                sizes=sizes.shown() | {"busy": count},
            )
        )
    return rows


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """So many other processes that never rest."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()
