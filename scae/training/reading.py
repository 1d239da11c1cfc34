"""What a dictionary meets in a pass, for what is done to it between two steps."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from scae.core.typing import Float, Tensor
from scae.dictionaries import Dictionary
from scae.kernels import Arrivals, Upstream
from scae.lm import Trace
from scae.sites import Site
from scae.suite import Mode, Suite, SuiteOutput, passes


class Reading(NamedTuple):
    """site: whose dictionary; shifted: what its encoder is applied to; arrivals: what comes along connections, as the
    encoder's rows are now, None where nothing does; chunk_mb: bound on the pre-activations held at a time."""

    site: Site
    dictionary: Dictionary
    shifted: Float[Tensor, "token d_in"]
    arrivals: Callable[[], Arrivals | None]
    chunk_mb: int | None

    def parts(self) -> Iterator[tuple[slice, Float[Tensor, "token feature"]]]:
        """All pre-activations, a run of tokens at a time."""
        return self.dictionary.preactivations(self.shifted, self.arrivals(), chunk_mb=self.chunk_mb)


def visit(suite: Suite, trace: Trace, mode: Mode, meet: Callable[[Reading], None]) -> SuiteOutput:
    """Run a pass at the thresholds of inference; before each site is encoded, it is shown. What is done to its
    dictionary then, the pass goes on with."""

    def prepare(site: Site, read: Float[Tensor, "token d_model"], upstream: Upstream | None) -> None:
        dictionary = suite[site]

        def arrivals() -> Arrivals | None:
            return passes.arrivals_at(suite, site, upstream, trace)

        meet(Reading(site, dictionary, dictionary.shift(read), arrivals, suite.chunk_mb))

    with suite.inference():
        if mode == "plain":
            return passes.plain(suite, trace, prepare=prepare)
        if mode == "dense":
            return passes.dense(suite, trace, prepare=prepare)
        return passes.pruned(suite, trace, prepare=prepare)
