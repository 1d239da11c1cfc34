"""What selection, the start of a suite and evaluation hold, in bounded parts and all at once."""

from dataclasses import replace
from typing import Any

from benchmarks.measure import interleaved
from benchmarks.rows import Row, say
from benchmarks.synthetic import QUICK, Sizes
from benchmarks.worker import Case, peaks

SIZES = Sizes(layers=6, d_model=256, heads=8, features=512, k=16, C=16, windows=2, context=256)


def run(
    *, quick: bool, device: str, sizes: Sizes | None = None, batches: int | None = None, vocab: int = 50_257
) -> list[Row]:
    """A row for each of the three; its ratio is one of memory, its seconds say what the parts cost."""
    sizes = sizes or (QUICK if quick else SIZES)
    batches = batches or (2 if quick else 48)
    many = {"sizes": sizes.plain(), "batches": batches}
    wide = {"sizes": replace(sizes, d_model=3 * sizes.d_model).plain(), "batches": batches}
    one = {"sizes": replace(sizes, windows=2 * sizes.windows).plain(), "vocab": vocab}
    work: dict[str, tuple[str, dict[str, Any]]] = {
        "select": ("bounded_steps.scoring", many),
        "start of pretraining": ("bounded_steps.starting", wide),
        "evaluate": ("bounded_steps.evaluating", one),
    }
    rows = []
    for name, (build, values) in work.items():
        say(f"memory: {name}")
        pair = {bounded: Case(build, values | {"device": device, "bounded": bounded}) for bounded in (True, False)}
        times = interleaved({str(key): case.make() for key, case in pair.items()}, device=device, rounds=1)
        memory = peaks(list(pair.values()), device=device)
        rows.append(
            Row.between(
                name,
                times["True"],
                times["False"],
                memory,
                ratio=memory[1] / max(1, memory[0]),
                ratio_is="peak memory with everything held at once / in bounded parts",
                sizes=Sizes(**values["sizes"]).shown()
                | {key: value for key, value in values.items() if key != "sizes"},
            )
        )
    return rows
