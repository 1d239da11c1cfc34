"""Sums over a text, part by part: what is known of one part is added to what is known of those before it."""

from collections.abc import Mapping

from scae.core.typing import Tensor
from scae.evaluation import Metrics, Observer

Sums = dict[str, Tensor]
"""By name, in float64."""


class Summing(Observer):
    """An observer of one part of a text; it says no number, but what is to be added to the sums of the other parts."""

    def __init__(self) -> None:
        self.sums: Sums = {}

    def add(self, name: str, value: Tensor) -> None:
        value = value.detach().double().cpu()
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def result(self) -> Metrics:
        return {}


def added(before: Mapping[str, Tensor], more: Mapping[str, Tensor]) -> Sums:
    """Name by name; what only one of them has, as it is."""
    return {name: _sum(before.get(name), more.get(name)) for name in {**before, **more}}


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor:
    if one is None or other is None:
        found = other if one is None else one
        assert found is not None
        return found
    return one + other
