"""`python -m scae.artifacts list`: what lies in `artifacts/`, how large it is and who uses it.
`python -m scae.artifacts clean`: remove what no finished run uses; shows what that is, and asks.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from scae.artifacts.inventory import Entry, inventory, remove, unused
from scae.core.failures import ArtifactError, some


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m scae.artifacts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["list", "clean"])
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), metavar="DIR", help="paths.artifacts")
    parser.add_argument("--runs", type=Path, default=Path("multirun"), metavar="DIR", help="where all runs lie")
    parser.add_argument("--yes", action="store_true", help="clean without asking")
    options = parser.parse_args(arguments)
    try:
        entries = inventory(options.artifacts, options.runs)
        if options.action == "list":
            _show(entries)
        else:
            _clean(entries, options.runs, sure=options.yes)
    except (ArtifactError, OSError) as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", markup=False, highlight=False)
        return 2
    return 0


def _clean(entries: list[Entry], runs: Path, *, sure: bool) -> None:
    console = Console(soft_wrap=True, highlight=False, markup=False)
    at_work = [entry.name for entry in entries if entry.locked]
    if at_work:
        console.print(f"somebody works on {some(at_work, 3)}: nothing is removed before that has ended")
        return
    condemned = unused(entries)
    if not condemned:
        console.print(f"nothing to remove: the finished runs below {runs} use all of it")
        return
    _show(condemned)
    if not (sure or _agreed(console, len(condemned), runs)):
        console.print("nothing was removed; --yes removes all of the above")
        return
    for entry in condemned:
        console.print(f"removed {entry.path}" if remove(entry) else f"kept {entry.path}: somebody works on it now")


def _agreed(console: Console, count: int, runs: Path) -> bool:
    if not sys.stdin.isatty():
        return False
    answer = console.input(f"remove all {count}, which no finished run below {runs} uses? [y/N] ")
    return answer.strip().lower() in ("y", "yes")


def _show(entries: list[Entry]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("name", "size", "state", "finished", "used by"):
        table.add_column(column, no_wrap=True, justify="right" if column == "size" else "left")
    for entry in entries:
        finished = str(entry.note.get("finished", ""))[:16].replace("T", " ")
        table.add_row(entry.name, _megabytes(entry.size), entry.state, finished, some(entry.users, 2) or "nobody")
    table.add_row("together", _megabytes(sum(entry.size for entry in entries)))
    console = Console()
    (console if console.is_terminal else Console(width=200)).print(table, highlight=False)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


if __name__ == "__main__":
    sys.exit(main())
