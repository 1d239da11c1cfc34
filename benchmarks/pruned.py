"""One finetuning step of the pruned pass against the same step in the dense formulation."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import PATIENCE_S, Samples, interleaved
from benchmarks.rows import Row, say
from benchmarks.suite_steps import write_connections
from benchmarks.synthetic import QUICK, Sizes
from benchmarks.worker import Case, peaks

TOLERANCE = 1e-5
GOAL = ">= 100, 1/5 memory"


def run(*, quick: bool, device: str, sizes: Sizes | None = None, rounds: int = 7) -> list[Row]:
    """One row, on connections chosen by contribution: their upstream features are popular, as in real suites."""
    sizes = sizes or (QUICK if quick else Sizes())
    with TemporaryDirectory() as folder:
        path = write_connections(sizes, "contribution", str(Path(folder) / "chosen.safetensors"), device)
        values = {"sizes": sizes.plain(), "connections": path, "device": device}
        ours = Case("suite_steps.suite_step", values | {"mode": "pruned"})
        dense = Case("suite_steps.dense_step", values)
        made = {"ours": ours.make(), "dense": dense.make()}
        times = interleaved(made, device=device, rounds=3 if quick else rounds)
        say(f"pruned: {times['ours'].median:.3g} s, dense {times['dense'].median:.3g} s, now memory")
        memory = peaks([ours, replace(dense, warm=times["dense"].median < PATIENCE_S)], device=device)
    return [_row(sizes, times["ours"], times["dense"], memory)]


def _row(sizes: Sizes, ours: Samples, dense: Samples, memory: list[int]) -> Row:
    our_bytes, dense_bytes = memory
    return Row.between(
        "chosen connections",
        ours,
        dense,
        memory,
        ratio=dense.median / ours.median,
        ratio_is="dense step / pruned step, times faster",
        sizes=sizes.shown(),
        goal=GOAL,
        extra={
            "ours_loss": ours.first,
            "baseline_loss": dense.first,
            "loss_difference": abs(ours.first - dense.first) / abs(dense.first),
            "memory_ratio": dense_bytes / our_bytes if our_bytes else None,
        },
    )


def disagreements(rows: list[Row]) -> list[str]:
    """What is wrong with rows whose two programs did not compute the same loss: they compare nothing."""
    return [
        f"{row.name}: our loss {row.extra['ours_loss']!r} and that of the dense formulation "
        f"{row.extra['baseline_loss']!r} differ by {row.extra['loss_difference']:.1e}, allowed {TOLERANCE:.0e}"
        for row in rows
        if not row.extra.get("loss_difference", 0.0) <= TOLERANCE
    ]
