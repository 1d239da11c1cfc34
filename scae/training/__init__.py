"""Training a suite with Lightning."""

from scae.training.devices import device
from scae.training.features import firing_facts
from scae.training.fit import Place, fit
from scae.training.module import SuiteTraining
from scae.training.refit import refit
from scae.training.regrow import Regrowth, moved_share
from scae.training.revive import Revival
from scae.training.settled import left_to_learn
from scae.training.snapshots import Snapshots, snapshots
from scae.training.start import bound_from_data, freeze, start_from_data
from scae.training.validation import Validate
from scae.training.worst_tokens import WorstTokens

__all__ = [
    "Place",
    "Regrowth",
    "Revival",
    "Snapshots",
    "SuiteTraining",
    "Validate",
    "WorstTokens",
    "bound_from_data",
    "device",
    "firing_facts",
    "fit",
    "freeze",
    "left_to_learn",
    "moved_share",
    "refit",
    "snapshots",
    "start_from_data",
]
