"""What a dictionary meets in a pass, before it encodes: for what looks at it there, or does something to it."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from scae.core.typing import Float, Tensor
from scae.dictionaries import Dictionary
from scae.kernels import Arrivals, arrive
from scae.sites import Site


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

    def preactivations(self) -> Float[Tensor, "token feature"]:
        """All of them at once."""
        return self.dictionary.encoder.preactivations(self.shifted, self.arrivals())

    def alone_and_all(self) -> tuple[Float[Tensor, "token feature"], Float[Tensor, "token feature"]]:
        """What they would be if nothing came along connections, and what they are."""
        alone, arrivals = self.dictionary.encoder.preactivations(self.shifted), self.arrivals()
        return alone, alone if arrivals is None else alone + arrive(arrivals)


Meet = Callable[[Reading], None]
"""Shown every reading in the order of the pass. What it does to a dictionary, the pass goes on with."""
