"""Held-out metrics of every arm."""

from scae.evaluation.alone import Alone
from scae.evaluation.arms import Arm
from scae.evaluation.bypass import Bypass
from scae.evaluation.evaluate import evaluate
from scae.evaluation.pursuit import Pursuit
from scae.evaluation.unigram import Unigram, unigram
from scae.evaluation.walk import Metrics, Observer, Subject, walk

__all__ = [
    "Alone",
    "Arm",
    "Bypass",
    "Metrics",
    "Observer",
    "Pursuit",
    "Subject",
    "Unigram",
    "evaluate",
    "unigram",
    "walk",
]
