"""SIGINT and SIGTERM: work stops where it can be continued, with one line and the exit status that a shell gives.

Training stops between two optimiser steps, after a checkpoint; a second signal does not wait for that. All other work
stops where it is: the artifacts that are complete stay, and the one under work is made again.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(SystemExit):
    """Somebody asked for the end. It is no Exception: it ends a sweep, and not one of its jobs."""

    def __init__(self, signum: int, where: str = "") -> None:
        """where: follows `stopped by SIGTERM`."""
        super().__init__(f"stopped by {signal.Signals(signum).name}{where}; the same command continues")
        self.code = self.status = 128 + signum


class _Handler:
    """Raises Stopped, or keeps the first signal where somebody will ask for it."""

    def __init__(self) -> None:
        self.installed = False
        self.holds = False
        self.kept = 0

    def __call__(self, signum: int, frame: Any) -> None:
        if not self.holds or self.kept:
            raise Stopped(signum)
        self.kept = signum


_handler = _Handler()  # of this process, as signals are


@contextmanager
def stops_at_signals() -> Iterator[None]:
    """Raise Stopped where one of the SIGNALS arrives."""
    before = {signum: signal.signal(signum, _handler) for signum in SIGNALS}
    _handler.installed = True
    try:
        yield
    finally:
        _handler.installed = False
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def held_signals() -> Iterator[None]:
    """Keep the first signal for those who ask with `signal_asked`; raises Stopped at the end if one is left."""
    _handler.holds, _handler.kept = True, 0
    try:
        yield
    except Exception as error:
        if _handler.kept:
            raise Stopped(_handler.kept) from error
        raise
    finally:
        _handler.holds = False
    if _handler.kept:
        raise Stopped(_handler.kept)


def take_signals_back() -> None:
    """Undo what a library has put before the handler of this module."""
    if _handler.installed:
        for signum in SIGNALS:
            signal.signal(signum, _handler)


def signal_asked() -> int:
    """The number of the signal that is kept; 0: none has come."""
    return _handler.kept
