"""A pruned suite of the sort that a module asks for, and its window."""

from pruned_suites import one, suite

__all__ = ["one", "suite"]
