"""From the plain values that Hydra composed to a checked `Config`."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from scae.config.data import AnyData
from scae.config.errors import cannot_run, explain
from scae.config.model import TinyModel
from scae.config.rules import problems_of
from scae.config.training import Training
from scae.config.whole import Config


def parse(values: Mapping[str, Any]) -> Config:
    """Check a resolved configuration and give it types; raises ConfigError naming key, value and what is allowed."""
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise cannot_run(explain(error, values, Config)) from None
    if problems := list(problems_of(config)):
        raise cannot_run(problems)
    stages = {name: _with_optimizer(getattr(config, name), config) for name in ("pretrain", "finetune")}
    return config.model_copy(update={"data": _settled(config)} | stages)


def _with_optimizer(training: Training, config: Config) -> Training:
    """A stage with the optimiser that it is trained by, wherever the user has said so."""
    return training.model_copy(update={"optimizer": training.optimizer or config.optimizer})


def _settled(config: Config) -> AnyData:
    """The data section without choices that need no measurement, so that one thing has one name.

    A padded window holds one document. The embedded model never saw a text: what it is trained on is what it knows.
    """
    if config.data.packing == "document":
        return config.data.model_copy(update={"separator": "none", "attend_across": True})
    if config.data.separator == "auto" and isinstance(config.model, TinyModel):
        return config.data.model_copy(update={"separator": "eos"})
    return config.data
