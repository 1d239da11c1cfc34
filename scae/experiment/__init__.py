"""An experiment: which artifacts it has, the table of its stages, how they are brought up to date, what a run writes,
and a finished run to be opened again.

Nothing here imports torch before the first stage runs.
"""

from scae.experiment.execution import run

__all__ = ["run"]
