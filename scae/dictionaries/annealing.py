"""How many features are picked may fall while a new suite is trained.

k(t) = k + (k_start - k) max(0, 1 - t / share)          rounded, t the share of the steps that are done
"""

from scae.config import Anneal
from scae.dictionaries.activation import Activation


class Picking(Activation):
    """What picks k features, of each token or on average.

    anneal: how k falls; None: it does not. done: share of the steps of a fit, set by what trains; no result depends on
    either outside training.
    """

    anneal: Anneal | None = None
    done: float = 0.0

    def __init__(self, *, k: int) -> None:
        super().__init__()
        self.k = k

    @property
    def k_now(self) -> int:
        """The k that holds now."""
        if self.anneal is None or not self.training:
            return self.k
        return self.anneal.k(self.done, last=self.k)
