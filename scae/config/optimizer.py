"""`optimizer`: what a step of the suite's training makes of its gradient (`scae.training.optimizers`). A kind is one
class here, its keys those that it reads."""

import importlib.util
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from scae.config.active import Neutral
from scae.config.section import Fraction, FromZero, Rate, Section


class Optimizer(Section):
    """What every kind has."""

    lr_factor: Annotated[Rate, Neutral(1.0)] = Field(
        description="the rate is this times lr of the stage, whose values in conf/ were found with Adam"
    )


class AdamOptimizer(Optimizer):
    kind: Annotated[Literal["adam"], Neutral("adam")]
    beta1: Annotated[FromZero, Neutral(0.9)] = Field(description="how much of the running mean of gradients stays")
    beta2: Annotated[FromZero, Neutral(0.999)] = Field(description="how much of that of their squares stays")
    eps: Annotated[Rate, Neutral(1e-8)] = Field(description="added to the root of the mean square")


class MuonOptimizer(Optimizer):
    """Matrices by Muon, the rest by Adam, whose keys are `beta1`, `beta2` and `eps`."""

    kind: Literal["muon"]
    momentum: FromZero = Field(description="matrices: how much of the sum of gradients stays")
    beta1: FromZero
    beta2: FromZero
    eps: Rate


class SignumOptimizer(Optimizer):
    kind: Literal["signum"]
    momentum: FromZero = Field(description="how much of the running mean of gradients stays; 0: the sign of each one")


class ScheduleFreeOptimizer(Optimizer):
    kind: Literal["schedulefree"]
    beta1: Fraction = Field(description="gradients are taken at beta1 x the mean + (1 - beta1) x the fast weights")
    beta2: FromZero
    eps: Rate

    def problems(self, key: str) -> Iterator[str]:
        if importlib.util.find_spec("schedulefree") is None:
            yield f"{key}.kind={self.kind}: schedulefree is not installed: pip install -e '.[schedulefree]'"


AnyOptimizer = Annotated[
    AdamOptimizer | MuonOptimizer | SignumOptimizer | ScheduleFreeOptimizer, Field(discriminator="kind")
]
