"""One finetuning step of the pruned pass against the same step in the dense formulation."""

from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import PATIENCE_S, Samples, interleaved
from benchmarks.rows import Row, say
from benchmarks.suite_steps import write_connections
from benchmarks.synthetic import QUICK, Sizes
from benchmarks.worker import Case, peaks

TOLERANCE = 1e-5
GOAL = ">= 100, 1/5 memory"
METHODS = {"contribution": "chosen connections"}


def run(*, quick: bool, device: str, sizes: Sizes | None = None, rounds: int = 7) -> list[Row]:
    """A row for each way to choose connections."""
    sizes = sizes or (QUICK if quick else Sizes())
    cases: list[Case] = []
    times: list[Samples] = []
    with TemporaryDirectory() as folder:
        for method, name in METHODS.items():
            say(f"pruned: {name}")
            path = write_connections(sizes, method, str(Path(folder) / f"{method}.safetensors"), device)
            ours, dense = _pair(sizes, path, device)
            pair = interleaved(
                {"ours": ours.make(), "dense": dense.make()}, device=device, rounds=3 if quick else rounds
            )
            say(f"pruned: {pair['ours'].median:.3g} s, dense {pair['dense'].median:.3g} s")
            times += [pair["ours"], pair["dense"]]
            cases += [ours, Case(dense.build, dense.values, warm=pair["dense"].median < PATIENCE_S)]
        say("pruned: memory")
        memory = peaks(cases, device=device)
    pairs = [slice(2 * i, 2 * i + 2) for i in range(len(METHODS))]
    return [_row(name, sizes, times[at], memory[at]) for name, at in zip(METHODS.values(), pairs, strict=True)]


def _pair(sizes: Sizes, connections: str, device: str) -> tuple[Case, Case]:
    values = {"sizes": sizes.plain(), "connections": connections, "device": device}
    return Case("suite_steps.suite_step", values | {"mode": "pruned"}), Case("suite_steps.dense_step", values)


def _row(name: str, sizes: Sizes, times: list[Samples], memory: list[int]) -> Row:
    (ours, dense), (our_bytes, dense_bytes) = times, memory
    return Row.between(
        name,
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
