"""Training a suite with Lightning."""

from scae.training.fit import Place, fit
from scae.training.module import SuiteTraining
from scae.training.start import bound_from_data, start_from_data
from scae.training.worst_tokens import WorstTokens

__all__ = ["Place", "SuiteTraining", "WorstTokens", "bound_from_data", "fit", "start_from_data"]
