"""The console that tables are printed on."""

from collections.abc import Sequence

from rich.console import Console

from scae.report.remarks import bullets

WIDEST = 128  # a table of arms with every column


def terminal() -> Console:
    """Standard output; a pipe or a log file, which has no width of its own, gets the room that the tables want."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDEST)


def print_remarks(console: Console, lines: Sequence[str]) -> None:
    """Under a table; nothing where there is nothing to say."""
    if lines:
        console.print(bullets(lines) + "\n", markup=False, highlight=False)
