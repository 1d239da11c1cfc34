"""Training a suite with Lightning."""

from scae.training.fit import CHECKPOINT, Place, fit, read_identity
from scae.training.module import SuiteTraining, start_from_data

__all__ = ["CHECKPOINT", "Place", "SuiteTraining", "fit", "read_identity", "start_from_data"]
