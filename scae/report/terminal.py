"""The console that tables are printed on."""

from rich.console import Console

WIDEST = 128  # a table of arms with every column


def terminal() -> Console:
    """Standard output; a pipe or a log file, which has no width of its own, gets the room that the tables want."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDEST)
