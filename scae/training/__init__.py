"""Training a suite with Lightning."""

from scae.training.fit import Place, fit
from scae.training.module import SuiteTraining, start_from_data
from scae.training.worst_tokens import WorstTokens

__all__ = ["Place", "SuiteTraining", "WorstTokens", "fit", "start_from_data"]
