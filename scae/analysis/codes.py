"""The activations that passes give, kept as they come; and those of a finished database, site by site."""

from collections.abc import Collection, Iterator, Mapping

import torch

from scae.core.typing import Bool, Tensor
from scae.evaluation import Arm, Metrics, Observer
from scae.kernels import SparseCode, Support
from scae.kernels.code import pointers
from scae.lm import Trace
from scae.report.analysis_files import Tables
from scae.sites import Site
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


class LiveCodes(Mapping[Site, SparseCode]):
    """The codes of a pass over the live tokens alone, those without a code left out; each is read when it is asked
    for."""

    def __init__(self, files: Mapping[Site, Tables], live: Bool[Tensor, " token"]) -> None:
        self._files, self._live = files, live

    def __getitem__(self, site: Site) -> SparseCode:
        file = self._files[site]
        counts = torch.from_numpy(file["crow"]).diff()
        (n_features,) = (size - 1 for size in file.shapes["feature_crow"])
        support = Support(pointers(counts[self._live]), torch.from_numpy(file["feature"]).long(), n_features)
        return SparseCode(support, torch.from_numpy(file["value"]))

    def __iter__(self) -> Iterator[Site]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)
