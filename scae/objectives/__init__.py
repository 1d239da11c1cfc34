"""What a pass over the suite is trained to do: loss terms and their weighted sum."""

from scae.objectives.comparison import Comparison
from scae.objectives.objective import LossOutput, Objective
from scae.objectives.terms import Term

__all__ = ["Comparison", "LossOutput", "Objective", "Term"]
