"""From the plain values that Hydra composed to a checked `Config`."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from scae.config.data import AnyData
from scae.config.errors import cannot_run, explain
from scae.config.model import TinyModel
from scae.config.pruning import chosen_stages, unprunable
from scae.config.rules import problems_of
from scae.config.whole import Config


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
        }
    )


def _settled_data(config: Config) -> AnyData:
    """A padded window holds one document. The embedded model never saw a text: it knows what it is trained on."""
    if config.data.packing == "document":
        return config.data.model_copy(update={"separator": "none", "attend_across": True})
    if config.data.separator == "auto" and isinstance(config.model, TinyModel):
        return config.data.model_copy(update={"separator": "eos"})
    return config.data
