"""Training a suite with Lightning."""

from scae.training.fit import Place, fit
from scae.training.module import SuiteTraining, start_from_data

__all__ = ["Place", "SuiteTraining", "fit", "start_from_data"]
