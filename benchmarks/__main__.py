"""`python -m benchmarks NAME [--json FILE] [--quick] [--device cpu|cuda]`: measure, print a table, write JSON."""

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

NAMES = {
    "pruned": "a finetuning step of the pruned pass against the dense formulation",
    "plain": "the pruned step against the plain step of the same suite",
    "sae": "a training step of one dictionary against its encoder product, and against other packages",
    "scaling": "how a pruned step grows with features, connections, tokens and layers",
    "memory": "what selection, the start of pretraining and evaluation hold, in parts and all at once",
    "waiting": "threads that sleep while they wait against threads that spin, alone and beside busy processes",
    "store": "a pretraining step on stored activations against one that runs the model, and when a store pays",
    "analysis": "the database of activations of a large text, and the statistics of its features: time, disk, memory",
    "end_to_end": "the default experiment: its stages, and the parts of a training step",
}


def main(arguments: list[str] | None = None, **smaller: Any) -> int:
    """Returns the exit code. smaller: sizes to use instead of the benchmark's own, for tests."""
    given = sys.argv[1:] if arguments is None else arguments
    parsed = _parser().parse_args(given)
    from benchmarks.rows import console, say, tables, write_json
    from scae.core.memory import keep_freed_memory

    keep_freed_memory()  # as training does
    options = {"peers": parsed.peers} if parsed.name == "sae" else {}
    benchmark = import_module(f"benchmarks.{parsed.name}")
    rows = benchmark.run(quick=parsed.quick, device=parsed.device, **options, **smaller)
    for table in tables(parsed.name, rows):
        console().print(table)
    wrong = benchmark.disagreements(rows) if parsed.name == "pruned" else []
    if wrong:
        say("\n".join(wrong))
        return 1
    if parsed.json is not None:
        write_json(parsed.json, rows, device=parsed.device, command="python -m benchmarks " + " ".join(given))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        epilog="\n".join(f"  {name:12}{what}" for name, what in NAMES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write machine, date and rows here")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run, not how fast is it")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--peers", metavar="PYTHON", help="sae: the interpreter that make_peers_env.sh made")
    return parser


if __name__ == "__main__":
    sys.exit(main())
