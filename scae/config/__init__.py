"""What a configuration may say: the type, the range and the meaning of every key, and the rules between them.

One file a group of `conf/`, where the values live; here are none. `section` has what all of them are made of, `whole`
puts them together, `rules` has what crosses them, `parsing` checks what a user composed and `errors` says what is wrong
with it. Nothing here imports torch or a model, so that a bad configuration is refused within a second of the command.
"""

from scae.config.activations import StoredActivations
from scae.config.connectivity import Connectivity
from scae.config.data import HubData, Separator, StdlibData, TextData, text_files
from scae.config.errors import ConfigError
from scae.config.evaluation import Evaluation
from scae.config.logger import Logger
from scae.config.loss import Loss
from scae.config.model import HubModel, LocalModel, TinyModel
from scae.config.parsing import parse
from scae.config.rules import shape_problems
from scae.config.sae import AnySae, AuxK, BatchTopKSae, Bound, Sae, TopKSae, VanillaSae
from scae.config.sites import Sites
from scae.config.trainer import TrainerConfig
from scae.config.training import Finetune, Pretrain, Regrow, Training
from scae.config.whole import STAGES, Config, Stage

__all__ = [
    "STAGES",
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
    "Pretrain",
    "Regrow",
    "Sae",
    "Separator",
    "Sites",
    "Stage",
    "StdlibData",
    "StoredActivations",
    "TextData",
    "TinyModel",
    "TopKSae",
    "TrainerConfig",
    "Training",
    "VanillaSae",
    "parse",
    "shape_problems",
    "text_files",
]
