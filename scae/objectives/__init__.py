"""What a pass over the suite is trained to do: loss terms and their weighted sum."""

from scae.objectives.objective import Objective
from scae.objectives.terms import Comparison, LossOutput, Term

__all__ = ["Comparison", "LossOutput", "Objective", "Term"]
