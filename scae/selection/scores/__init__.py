"""Scores, a file each, by the `connectivity.method` that chooses with them."""

from scae.selection.scores.contribution import Contribution
from scae.selection.scores.random import Random
from scae.selection.scores.score import Score

SCORES: dict[str, type[Score]] = {"contribution": Contribution, "random": Random}

__all__ = ["SCORES", "Score"]
