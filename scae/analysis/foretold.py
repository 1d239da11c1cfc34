"""How well connections foretell what interventions do: statistics of predicted and measured changes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from scae.core.typing import Float, Tensor
from scae.sites import Site


@dataclass(frozen=True)
class Effects:
    """What changing features of `up` did to features of `down`, an edge and a token at a time.

    distance: levels of modules from the one to the other; 1: nothing between them; edges: how many different ones.
    """

    up: Site
    down: Site
    distance: int
    edges: int
    predicted: Float[Tensor, " effect"]
    live: Float[Tensor, " effect"]
    frozen: Float[Tensor, " effect"]


def by_pair(found: Iterable[Effects]) -> list[dict[str, Any]]:
    """A row for each pair of sites: how well its edges foretell what an intervention does. See `agreement`."""
    return [{"up": str(one.up), "down": str(one.down)} | _row([one]) for one in found]


def by_distance(found: Iterable[Effects]) -> list[dict[str, Any]]:
    """The same, all pairs of one distance together."""
    groups: dict[int, list[Effects]] = {}
    for one in found:
        groups.setdefault(one.distance, []).append(one)
    return [_row(groups[distance]) for distance in sorted(groups)]


def overall(found: Sequence[Effects]) -> dict[str, Any]:
    """The same of all pairs together; empty where there is none."""
    return {key: value for key, value in _row(found).items() if key != "distance"} if found else {}


def _row(found: Sequence[Effects]) -> dict[str, Any]:
    predicted = torch.cat([one.predicted for one in found])
    live, frozen = torch.cat([one.live for one in found]), torch.cat([one.frozen for one in found])
    row: dict[str, Any] = {"distance": found[0].distance, "edges": sum(one.edges for one in found)}
    row |= {"effects": len(predicted)} | agreement(predicted, live)
    row |= {f"frozen_{key}": value for key, value in agreement(predicted, frozen).items()}
    return row | {"predicted_size": _mean(predicted.abs()), "live_size": _mean(live.abs())}


def agreement(predicted: Float[Tensor, " effect"], found: Float[Tensor, " effect"]) -> dict[str, float | None]:
    """rank: Spearman's correlation, ties sharing their mean rank; r2: 1 - sum (found - predicted)^2 / sum (found -
    mean found)^2, of the prediction as it is and not of a line fitted to it; slope: sum found predicted / sum
    predicted^2, of the line through 0; sign: share in which both have the same sign. None where it has no value."""
    p, y = predicted.double(), found.double()
    numbers: dict[str, float | None] = {"rank": None, "r2": None, "slope": None, "sign": None}
    if len(p) < 3:
        return numbers
    variance, square = (y - y.mean()).square().sum(), p.square().sum()
    if variance > 0:
        numbers["r2"] = float(1 - (y - p).square().sum() / variance)
    if square > 0:
        numbers["slope"] = float((y * p).sum() / square)
        numbers["sign"] = float((p.sign() == y.sign()).double().mean())
    ours, theirs = (ranks - ranks.mean() for ranks in (_ranks(p), _ranks(y)))
    spread = ours.norm() * theirs.norm()
    if spread > 0:
        numbers["rank"] = max(-1.0, min(1.0, float((ours * theirs).sum() / spread)))
    return numbers


def _ranks(values: Float[Tensor, " value"]) -> Float[Tensor, " value"]:
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[inverse]


def _mean(values: Tensor) -> float | None:
    return float(values.double().mean()) if len(values) else None
