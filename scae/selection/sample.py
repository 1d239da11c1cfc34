"""What the scores of connections need of a pass over a sample, without keeping the runs of the model.

Held are, for n tokens in windows of `context`,

    n x sum over sites of (12 bytes x entries a token + 4)      the codes and the scales of all sites
    n x heads x context x 4 bytes x layers                      the attention patterns of as many layers as fit a bound

and two runs of the model on a batch, the last and the next. Sites are scored in order, so patterns are wanted layer by
layer: where those of all layers do not fit, the model runs once more for the next few, and gives the same numbers.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from scae.core.typing import Float, Live, Tensor
from scae.kernels import SparseCode
from scae.lm import Module, Trace
from scae.sites import Site
from scae.suite import Suite

Traces = Callable[[], Iterable[Trace]]
"""Runs over the same batches at every call."""


@dataclass(frozen=True)
class Record:
    """One batch of a pass: of the plain one, where connections are chosen. `scales` are those of the clean run."""

    live: Live
    scales: dict[Module, Float[Tensor, "batch pos 1"]]
    codes: dict[Site, SparseCode]


R = TypeVar("R", bound=Record)


class Sample(Generic[R]):
    """The records of all batches, and the attention patterns of some layers at a time."""

    def __init__(self, suite: Suite, traces: Traces, measure: Callable[[Trace], R], *, megabytes: int) -> None:
        """measure: what is kept of a batch; megabytes: bound on the patterns held, but for those of one layer."""
        self._traces, self._bytes = traces, megabytes * 2**20
        self._moves = {site for site in suite.sites if suite.path(site).moves}
        self._layers = [site.layer for site in suite.sites if site in self._moves and suite.layout.upstream(site)]
        self._patterns: dict[int, list[Tensor]] = {}
        self.records = [measure(trace) for trace in self._keeping(self._layers)]

    def patterns(self, site: Site) -> Sequence[Float[Tensor, "batch head query key"] | None]:
        """The attention patterns that lie on the way to a site, batch by batch; None where there are none on it.

        The model runs again where they are not held.
        """
        if site not in self._moves:
            return [None] * len(self.records)
        layer = site.layer
        if layer not in self._patterns:
            for _ in self._keeping([other for other in self._layers if other >= layer]):
                pass
        return self._patterns[layer]

    def _keeping(self, layers: Sequence[int]) -> Iterator[Trace]:
        """Run over the sample, and keep on the way the patterns of the first of these layers, as many as fit."""
        kept: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        self._patterns = kept
        for trace in self._traces():
            assert trace.patterns is not None
            for layer, patterns in kept.items():
                patterns.append(trace.patterns[layer])
            while len(kept) > 1 and sum(one.nbytes for patterns in kept.values() for one in patterns) > self._bytes:
                kept.popitem()
            yield trace


def record(suite: Suite, traces: Traces, *, megabytes: int) -> Sample[Record]:
    """Run the plain pass over a sample; the suite's inference thresholds apply. megabytes: see `Sample`."""

    @torch.no_grad()
    def measure(trace: Trace) -> Record:
        return Record(trace.live, suite.scales(trace), suite(trace, mode="plain").codes | suite.codes_of_ends(trace))

    with suite.inference():
        return Sample(suite, traces, measure, megabytes=megabytes)
