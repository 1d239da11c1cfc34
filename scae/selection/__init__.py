"""Which connections a suite keeps: scores and the choice."""

from scae.selection.choose import choose, describe, shuffled
from scae.selection.scores import Record, mean_contributions, record, summed_contributions

__all__ = ["Record", "choose", "describe", "mean_contributions", "record", "shuffled", "summed_contributions"]
