"""What every score is: how strongly each feature of a site wants each upstream feature."""

from abc import ABC, abstractmethod

from scae.config import Connectivity
from scae.core.typing import Float, Tensor
from scae.selection.sample import Traces
from scae.sites import Site
from scae.suite import Suite


class Score(ABC):
    """Made once for a suite; `traces` runs over a sample of the training text as often as it is called.

    measured: whether the size of a score says something, so that the share which is kept is worth telling.
    """

    measured = True

    @abstractmethod
    def __init__(self, config: Connectivity, suite: Suite, traces: Traces, *, seed: int) -> None: ...

    @property
    def batch_tokens(self) -> int:
        """The tokens of a batch whose weights it holds beside the scores (see `chunks`)."""
        return 0

    @abstractmethod
    def __call__(self, site: Site, rows: slice) -> Float[Tensor, "down up"]:
        """Of the features `rows` of a site for all upstream features, of either sign; 0: never."""

    def importance(self, site: Site) -> Float[Tensor, " down"] | None:
        """By feature, what its scores have to be multiplied with to be compared with those of any other feature; None
        where nothing makes them comparable: then `budget=by_score` is `even`."""
        return None
