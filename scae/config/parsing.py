"""From the plain values that Hydra composed to a checked `Config`."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from scae.config.data import AnyData
from scae.config.errors import cannot_run, explain
from scae.config.model import TinyModel
from scae.config.pruning import chosen_stages, unprunable
from scae.config.rules import problems_of
from scae.config.training import Training
from scae.config.whole import Config

AnyTraining = TypeVar("AnyTraining", bound=Training)


def parse(values: Mapping[str, Any]) -> Config:
    """Check a resolved configuration and give it types; raises ConfigError naming key, value and what is allowed."""
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise cannot_run(explain(error, values, Config)) from None
    if problems := list(problems_of(config)):
        raise cannot_run(problems)
    return settled(config)


def settled(config: Config) -> Config:
    """The configuration without choices that need no measurement, so that one thing has one name."""
    pruned = not any(unprunable(config))
    metric = config.optimized_metric
    if metric == "auto":
        metric = "pruned/ce" if pruned else "spliced/ce"
    return config.model_copy(
        update={
            "data": _settled_data(config),
            "stages": chosen_stages(config),
            "optimized_metric": metric,
            "pretrain": _with_optimizer(config.pretrain, config),
            "finetune": _with_optimizer(config.finetune, config),
        }
    )


def _with_optimizer(training: AnyTraining, config: Config) -> AnyTraining:
    """A stage with the optimiser that it is trained by, wherever the user has said so."""
    return training.model_copy(update={"optimizer": training.optimizer or config.optimizer})


def _settled_data(config: Config) -> AnyData:
    """A padded window holds one document. The embedded model never saw a text: it knows what it is trained on."""
    if config.data.packing == "document":
        return config.data.model_copy(update={"separator": "none", "attend_across": True})
    if config.data.separator == "auto" and isinstance(config.model, TinyModel):
        return config.data.model_copy(update={"separator": "eos"})
    return config.data
