"""What ends a command with one message and no traceback, although the configuration is right, and how it is told."""

from collections.abc import Sequence


class NonFiniteError(ArithmeticError):
    """Training met a NaN or an infinity: says stage, step, place and batch, and what is left of the work."""


class ArtifactError(RuntimeError):
    """Files that are damaged or cannot be written: says which, and what to do."""


def some(names: Sequence[str], shown: int) -> str:
    """The first few of many names, and how many more there are."""
    more = f", and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
