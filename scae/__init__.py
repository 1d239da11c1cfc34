"""Sparsely Connected Autoencoders: train, prune and read suites of sparse dictionaries.

The public face, for a notebook:

    open_run(folder), Run     a finished run: config, metrics, lm, suite, pretrained, windows, heldout()
    load_suite(folder)        its suite and its language model, nothing else
    Suite, Connections        what they are made of
"""

from importlib import import_module
from typing import Any

_HOMES = {  # opened on first use: torch is heavy
    "Connections": "connections",
    "Run": "experiment.opened",
    "Suite": "suite",
    "load_suite": "experiment.opened",
    "open_run": "experiment.opened",
}
__all__ = ["Connections", "Run", "Suite", "load_suite", "open_run"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"scae.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'scae' has no attribute '{name}'")
