"""`pretrain` and `finetune`: how the suite learns, first every dictionary by itself, then along its connections."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from scae.config.active import SWITCH, Neutral
from scae.config.loss import Loss
from scae.config.schedule import Decay, Warmup, schedule_problems
from scae.config.section import Fraction, FromZero, Positive, Rate, Section, distinct


class Training(Section):
    """One training stage of the suite."""

    steps: Positive
    batch_size: Positive = Field(description="windows an optimiser micro-step, over all devices")
    lr: Rate
    lr_width: Annotated[Positive | None, Neutral(None)] = Field(
        description="the d_model that lr is meant for: the rate is lr x lr_width / d_model; null: lr for every model"
    )
    warmup: Warmup
    decay: Decay
    unit_norm: bool = Field(description="keep decoder rows at norm 1, projecting their gradients")

    def rate(self, d_model: int) -> float:
        """The learning rate where a dictionary reads `d_model` numbers.

        In the unit of a site each of them is about 1, and Adam moves every weight by about the rate, so one step moves
        a pre-activation by up to rate x d_model: far from where it was in training, at a width that was not thought of
        (Yang et al. 2022, "Tensor Programs V", table 3: Adam's rate goes with 1 / fan-in).
        """
        return self.lr if self.lr_width is None else self.lr * self.lr_width / d_model

    def problems(self, key: str) -> Iterator[str]:
        yield from schedule_problems(key, self.warmup, self.decay)


class Start(Section):
    """What a new suite takes from the model before it is trained: the unit of each site, biases and scales."""

    batches: Positive = Field(description="micro-steps, the first, that it is taken from")
    furthest: Annotated[FromZero, Neutral(0.0)] = Field(
        description="share of the tokens, those furthest from the median, that are left out where a unit is measured"
    )


class Pretrain(Training):
    loss: Loss
    start: Start
    freeze: Annotated[list[Literal["decoder"]], AfterValidator(distinct), Neutral([])] = Field(
        description="what stays as the start has left it; decoder: an encoder is trained for a dictionary that is given"
    )

    def problems(self, key: str) -> Iterator[str]:
        yield from super().problems(key)
        yield from self.loss.problems(f"{key}.loss")


class Regrow(Section):
    """Connections that move during finetuning, where they were chosen by contribution; any others stay."""

    every: Annotated[Positive | None, SWITCH] = Field(
        description="steps between two rounds; null: the connections stay"
    )
    share: Fraction = Field(description="of a feature's connections, those that the first round may move at most")
    until: Annotated[float, Field(gt=0, le=1)] = Field(description="share of the steps over which `share` falls to 0")
    batches: Positive = Field(description="micro-steps, the latest, that a round measures on")


class Finetune(Training):
    regrow: Regrow
