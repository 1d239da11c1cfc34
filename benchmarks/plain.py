"""The pruned step against the plain step of the same suite: what the connections cost."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import Samples, interleaved
from benchmarks.rows import Row, say
from benchmarks.suite_steps import write_connections
from benchmarks.synthetic import QUICK, Sizes
from benchmarks.worker import Case, peaks

GOAL = "<= 2.5"


def run(
    *,
    quick: bool,
    device: str,
    sizes: Sizes | None = None,
    counts: tuple[int, ...] | None = None,
    rounds: int = 7,
    method: str = "contribution",
) -> list[Row]:
    """A row for each number of connections."""
    sizes = sizes or (QUICK if quick else Sizes())
    shapes = [replace(sizes, C=C) for C in counts or ((4, 16) if quick else (16, 64, 128))]
    times: list[dict[str, Samples]] = []
    cases: list[Case] = []
    with TemporaryDirectory() as folder:
        for shape in shapes:
            say(f"plain: C={shape.C}")
            path = write_connections(shape, method, str(Path(folder) / f"{shape.C}.safetensors"), device)
            values = {"sizes": shape.plain(), "connections": path, "device": device}
            pair = {mode: Case("suite_steps.suite_step", values | {"mode": mode}) for mode in ("pruned", "plain")}
            made = {mode: case.make() for mode, case in pair.items()}
            times.append(interleaved(made, device=device, rounds=3 if quick else rounds))
            cases += pair.values()
        say("plain: memory")
        memory = peaks(cases, device=device)
    return [
        Row.between(
            f"C={shape.C}",
            pair["pruned"],
            pair["plain"],
            memory[2 * i : 2 * i + 2],
            ratio=pair["pruned"].median / pair["plain"].median,
            ratio_is="pruned step / plain step",
            sizes=shape.shown(),
            goal=GOAL,
        )
        for i, (shape, pair) in enumerate(zip(shapes, times, strict=True))
    ]
