"""Held-out metrics of every arm."""

from scae.evaluation.arms import Arm
from scae.evaluation.evaluate import bypass_share, evaluate

__all__ = ["Arm", "bypass_share", "evaluate"]
