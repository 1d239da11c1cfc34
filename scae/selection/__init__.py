"""Which connections a suite keeps: scores and the choice."""

from scae.selection.choose import choose, describe, shuffled
from scae.selection.contributions import mean_contributions, summed_contributions
from scae.selection.sample import Record, Sample, Traces, record

__all__ = [
    "Record",
    "Sample",
    "Traces",
    "choose",
    "describe",
    "mean_contributions",
    "record",
    "shuffled",
    "summed_contributions",
]
