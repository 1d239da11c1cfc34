"""The frozen language model: load, fold, trace, splice, and its linear paths."""

from scae.lm.checks import UnsupportedModelError, check_borders
from scae.lm.load import open_model, wrap
from scae.lm.model import LanguageModel
from scae.lm.modules import EMBED, UNEMBED, Module
from scae.lm.paths import LinearPaths, Path
from scae.lm.trace import Trace

__all__ = [
    "EMBED",
    "UNEMBED",
    "LanguageModel",
    "LinearPaths",
    "Module",
    "Path",
    "Trace",
    "UnsupportedModelError",
    "check_borders",
    "open_model",
    "wrap",
]
