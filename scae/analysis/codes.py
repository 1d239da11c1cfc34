"""The activations that passes give, kept as they come."""

from collections.abc import Collection

import torch

from scae.core.typing import Tensor
from scae.evaluation import Arm, Metrics, Observer
from scae.kernels import SparseCode
from scae.lm import Trace
from scae.suite import SuiteOutput

KEPT = ("counts", "feature", "value")


class Codes(Observer):
    """Of some arms, by name: for every site the activations > 0, how many a token has, a token's features ascending."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._found: dict[str, list[Tensor]] = {}

    def output(self, arm: Arm, out: SuiteOutput, trace: Trace) -> None:
        if arm.name not in self._names:
            return
        for site, code in out.codes.items():
            for what, values in zip(KEPT, _columns(code), strict=True):
                self._found.setdefault(f"{arm.name}/{site}/{what}", []).append(values.cpu())

    def result(self) -> Metrics:
        return {}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """`<arm>/<site>/counts`, `/feature` and `/value`."""
        return {name: torch.cat(parts) for name, parts in self._found.items()}


def _columns(code: SparseCode) -> tuple[Tensor, Tensor, Tensor]:
    firing = code.entries(code.value > 0)
    order = torch.argsort(firing.row * firing.n_features + firing.col)
    return firing.crow.diff().int(), firing.col[order].int(), firing.value[order].float()
