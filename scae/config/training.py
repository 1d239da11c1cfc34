"""`pretrain` and `finetune`: how the suite learns, first every dictionary by itself, then along its connections."""

from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from scae.config.active import BY_CONTENT, SWITCH, Neutral
from scae.config.errors import nearest, shortened
from scae.config.loss import BESIDE, Loss
from scae.config.optimizer import AnyOptimizer
from scae.config.schedule import Decay, DecayShape, DecayTo, Warmup, decay_problems, schedule_problems
from scae.config.section import Fraction, FromZero, Positive, Rate, Section, Text, Weight, distinct
from scae.config.sites import Sites

MOST_NAMED = 1000  # sites in an error


class Training(Section):
    """One training stage of the suite."""

    steps: Positive
    batch_size: Positive = Field(description="windows an optimiser micro-step, over all devices")
    lr: Rate
    lr_width: Annotated[Positive | None, Neutral(None)] = Field(
        description="the d_model that lr is meant for: the rate is lr x lr_width / d_model; null: lr for every model"
    )
    lr_features: Annotated[Positive | None, Neutral(None)] = Field(
        description="the number of features that lr is meant for: the rate is lr x sqrt(lr_features / features); null: "
        "lr for every number of them"
    )
    lr_sites: Annotated[dict[str, Rate] | None, Neutral(None)] = Field(
        description="by site, what its rate is multiplied by, as {0.attn: 0.5}; null: nowhere by anything"
    )
    warmup: Warmup
    decay: Decay
    decay_shape: DecayShape
    decay_to: DecayTo
    stagger: Annotated[Positive | None, Neutral(None)] = Field(
        description="steps by which each site begins to learn later than the one before it; null: all at once"
    )
    optimizer: AnyOptimizer
    unit_norm: bool = Field(description="keep decoder rows at norm 1, projecting their gradients")

    def rate(self, site: str, *, d_model: int, n_features: int) -> float:
        """The learning rate of a site whose dictionary reads `d_model` numbers.

        In the unit of a site each of them is about 1, and Adam moves every weight by about the rate, so one step moves
        a pre-activation by up to rate x d_model: far from where it was in training, at a width that was not thought of
        (Yang et al. 2022, "Tensor Programs V", table 3: Adam's rate goes with 1 / fan-in).

        With the number of features it goes as in EleutherAI's sparsify, with 1 / its root, which is 1 at 2^14 there.
        """
        rate = self.lr if self.lr_width is None else self.lr * self.lr_width / d_model
        if self.lr_features is not None:
            rate *= (self.lr_features / n_features) ** 0.5
        return rate * (self.lr_sites or {}).get(site, 1.0)

    def begins(self, number: int) -> int:
        """The step at which site `number` of the suite, in the order of the model, begins to learn."""
        return number * (self.stagger or 0)

    def problems(self, key: str) -> Iterator[str]:
        yield from schedule_problems(key, self.warmup, self.decay)
        yield from decay_problems(key, self.decay, self.decay_shape, self.decay_to)
        yield from self.optimizer.problems(f"{key}.optimizer")

    def site_problems(self, key: str, sites: Sites, n_layers: int) -> Iterator[str]:
        """What does not fit a suite of these sites in a model of so many layers."""
        for name, factor in (self.lr_sites or {}).items():
            if not sites.has(name, n_layers):
                names = list(islice(sites.names(n_layers), MOST_NAMED))
                found = f"{key}.lr_sites={{{name}:{factor:g}}}"
                yield f"{found}: no site is called {name}; allowed: {', '.join(names)}{nearest(name, names)}"
        count = sites.count(n_layers)
        last = self.begins(count - 1)
        if last >= self.steps:
            most = (self.steps - 1) // (count - 1)
            allowed = f"at most {most} or null" if most else "null"
            yield (
                f"{key}.stagger={self.stagger}: the last of {count} sites would begin to learn at step {last} of "
                f"{key}.steps={self.steps}; allowed: {allowed}"
            )


class Validation(Section):
    """The loss on text that training does not draw, now and then.

    All of it is in the names of artifacts: the windows kept aside are drawn by no step, and an artifact holds the
    history that was asked for.
    """

    every: Annotated[Positive | None, SWITCH] = Field(
        description="optimiser steps between two validations, the last step has one too; null: none"
    )
    tokens: Positive = Field(
        description="the end of the training text that no step draws, in whole batches; never what evaluation sees"
    )
    metric: Text = Field(
        description="what keep and patience go by: loss, fvu_mean, fvu_max or a term of the loss; less is better"
    )
    keep: Annotated[Literal["last", "best"], Neutral("last")] = Field(
        description="which suite the stage ends with: that of its last step, or of its best validation"
    )
    patience: Annotated[Positive | None, Neutral(None)] = Field(
        description="validations without an improvement after which the stage ends early, whatever the rate is then; "
        "null: it runs to its last step"
    )
    min_delta: Annotated[Weight, Neutral(0.0)] = Field(description="less than this is no improvement for patience")

    def of_loss(self, key: str, loss: Loss) -> Iterator[str]:
        """What is wrong with it where `loss` is validated."""
        if self.every is None:
            if self.keep == "best" or self.patience is not None:
                set_ = f"{key}.keep=best" if self.keep == "best" else f"{key}.patience={self.patience}"
                yield f"{set_}: goes by validations, and {key}.every=null makes none; needed: {key}.every=STEPS"
            return
        terms = (name for name in Loss.model_fields if name not in BESIDE and getattr(loss, name).weight)
        allowed = ["loss", "fvu_mean", "fvu_max", *terms]
        if self.metric not in allowed:
            yield f"{key}.metric={shortened(self.metric)}: allowed: {', '.join(allowed)} (the terms that this loss has)"


class Start(Section):
    """What a new suite takes from the model before it is trained: the unit of each site, biases and scales."""

    batches: Positive = Field(description="micro-steps, the first, that it is taken from")
    furthest: Annotated[FromZero, Neutral(0.0)] = Field(
        description="share of the tokens, those furthest from the median, that are left out where a unit is measured"
    )


class Pretrain(Training):
    loss: Loss
    start: Start
    validation: Validation
    init_from: Annotated[Text | None, BY_CONTENT] = Field(
        description="a run, an artifact, or dictionary files of another library that the suite begins from; null: anew"
    )
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


class Refit(Section):
    """Encoder rows that are fitted to the connections, before the first step: least squares against the plain pass."""

    tokens: Annotated[Positive | None, SWITCH] = Field(
        description="training tokens that the rows are fitted on; null: finetuning begins with the rows of pretraining"
    )
    rounds: Positive = Field(description="times that the tokens of a feature are completed by those where it fires now")
    steps: Positive = Field(description="of conjugate gradients, a round")
    ridge: Annotated[float, Field(ge=0)] = Field(
        description="what a change costs, as a share of the tokens of a feature"
    )
    drawn: Annotated[int, Field(ge=0)] = Field(
        description="features a token, beside those that fire there, that are fitted there too"
    )


class Revive(Section):
    """Features that have been silent for long, and are let back in by their bias."""

    every: Annotated[Positive | None, SWITCH] = Field(description="steps between two rounds; null: none")
    after: Positive = Field(description="tokens of silence after which a feature is let in")
    until: Annotated[float, Field(gt=0, le=1)] = Field(description="share of the steps after which there are no more")


class Settled(Section):
    """Sites that the pass explains already, before its first step, and that learn slower."""

    fvu: Annotated[Annotated[float, Field(gt=0)] | None, SWITCH] = Field(
        description="a site with a smaller FVU has its rate multiplied by its share of this one; null: none has"
    )
    tokens: Positive = Field(description="training tokens that it is measured on")


class Finetune(Training):
    settled: Settled
    refit: Refit
    regrow: Regrow
    revive: Revive
    validation: Validation
