"""The learning rate over a fit: up, flat, down to zero (`scae.core.schedule`)."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from scae.config.active import Neutral
from scae.config.section import FromZero

Warmup = Annotated[FromZero, Neutral(0.0), Field(description="share of the steps with a rising rate")]
Decay = Annotated[
    float, Field(ge=0, le=1), Neutral(0.0), Field(description="share of the steps, at the end, with a falling rate")
]
DecayShape = Annotated[
    Literal["linear", "cosine", "constant"],
    Neutral("linear"),
    Field(description="how the rate falls; constant: at once to decay_to, where it stays"),
]
DecayTo = Annotated[
    float, Field(ge=0, le=1), Neutral(0.0), Field(description="what it falls to, as a share of the full rate")
]


def schedule_problems(key: str, warmup: float, decay: float) -> Iterator[str]:
    if warmup + decay > 1:
        yield f"{key}.warmup={warmup} and {key}.decay={decay}: together at most 1"


def decay_problems(key: str, decay: float, shape: str, to: float) -> Iterator[str]:
    if decay and shape == "constant" and not to:
        yield (
            f"{key}.decay_shape=constant and {key}.decay_to={to}: nothing would be learned in the last "
            f"{key}.decay={decay} of the steps; allowed: {key}.decay_to more than 0, or {key}.decay=0"
        )
