"""Sparsely Connected Autoencoders: train, prune and read suites of sparse dictionaries."""

from importlib import import_module
from typing import Any

_HOMES = {"Connections": "connections", "Suite": "suite", "load_suite": "runs"}  # opened on first use: torch is heavy
__all__ = ["Connections", "Suite", "load_suite"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"scae.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'scae' has no attribute '{name}'")
