"""Training a suite with Lightning."""

from scae.training.devices import device
from scae.training.fit import Place, fit
from scae.training.module import SuiteTraining
from scae.training.regrow import Regrowth, moved_share
from scae.training.start import bound_from_data, freeze, start_from_data
from scae.training.worst_tokens import WorstTokens

__all__ = [
    "Place",
    "Regrowth",
    "SuiteTraining",
    "WorstTokens",
    "bound_from_data",
    "device",
    "fit",
    "freeze",
    "moved_share",
    "start_from_data",
]
