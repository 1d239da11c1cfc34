"""Training a suite with Lightning."""

from scae.training.fit import Place, fit
from scae.training.module import SuiteTraining, start_from_data
from scae.training.regrow import Regrowth, moved_share

__all__ = ["Place", "Regrowth", "SuiteTraining", "fit", "moved_share", "start_from_data"]
