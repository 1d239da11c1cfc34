"""What every loss term is. None has a unit, and every one is a mean over the text positions of all devices."""

from abc import ABC, abstractmethod

from scae.core.typing import Float, Tensor
from scae.objectives.comparison import Comparison


class Term(ABC):
    """One part of a loss. `weight` is what the objective multiplies it with."""

    name: str
    reads_stream = True
    """Whether the term looks beyond each site's own reconstruction, at what the reconstructions do together."""
    aux: str | None = None
    """The auxiliary quantity that it wants of the dictionaries (`scae.dictionaries.Encoded`)."""

    def __init__(self, *, weight: float) -> None:
        self.weight = weight

    @abstractmethod
    def __call__(self, comparison: Comparison) -> Float[Tensor, ""]: ...

    def by_token(self, comparison: Comparison) -> dict[str, Float[Tensor, "batch pos"]]:
        """What each token adds to the term, by the part of it that it adds to; empty where a term is not split."""
        return {}
