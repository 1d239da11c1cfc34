"""What a configuration may say: the type, the range and the meaning of every key, and the rules between them.

One file a group of `conf/`, where the values live; here are none. `section` has what all of them are made of, `whole`
puts them together, `rules` has what crosses them, `parsing` checks what a user composed and `errors` says what is wrong
with it. Nothing here imports torch or a model, so that a bad configuration is refused within a second of the command.
"""

from scae.config.activations import StoredActivations
from scae.config.analysis import Analysis
from scae.config.connectivity import Connectivity
from scae.config.data import HubData, Separator, StdlibData, TextData, text_files
from scae.config.errors import ConfigError
from scae.config.evaluation import Evaluation
from scae.config.logger import Logger
from scae.config.loss import Loss
from scae.config.model import HubModel, LocalModel, TinyModel
from scae.config.optimizer import (
    AdamOptimizer,
    AnyOptimizer,
    MuonOptimizer,
    ScheduleFreeOptimizer,
    SignumOptimizer,
)
from scae.config.parsing import parse, settled
from scae.config.pruning import unprunable
from scae.config.rules import shape_problems
from scae.config.sae import Anneal, AnySae, AuxK, BatchTopKSae, Bound, Mlp, Pursuit, Sae, TopKSae, VanillaSae
from scae.config.sites import Sites
from scae.config.trainer import TrainerConfig
from scae.config.training import Finetune, Pretrain, Refit, Regrow, Revive, Training, Validation
from scae.config.whole import STAGES, Config, Stage

__all__ = [
    "STAGES",
    "AdamOptimizer",
    "Analysis",
    "Anneal",
    "AnyOptimizer",
    "AnySae",
    "AuxK",
    "BatchTopKSae",
    "Bound",
    "Config",
    "ConfigError",
    "Connectivity",
    "Evaluation",
    "Finetune",
    "HubData",
    "HubModel",
    "LocalModel",
    "Logger",
    "Loss",
    "Mlp",
    "MuonOptimizer",
    "Pretrain",
    "Pursuit",
    "Refit",
    "Regrow",
    "Revive",
    "Sae",
    "ScheduleFreeOptimizer",
    "Separator",
    "SignumOptimizer",
    "Sites",
    "Stage",
    "StdlibData",
    "StoredActivations",
    "TextData",
    "TinyModel",
    "TopKSae",
    "TrainerConfig",
    "Training",
    "Validation",
    "VanillaSae",
    "parse",
    "settled",
    "shape_problems",
    "text_files",
    "unprunable",
]
