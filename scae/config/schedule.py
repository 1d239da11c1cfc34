"""The learning rate over a fit: up, flat, down to zero (`scae.core.schedule`)."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from scae.config.active import Neutral
from scae.config.section import FromZero

Warmup = Annotated[FromZero, Neutral(0.0), Field(description="share of the steps with a rising rate")]
Decay = Annotated[
    float, Field(ge=0, le=1), Neutral(0.0), Field(description="share of the steps, at the end, with a falling rate")
]


def schedule_problems(key: str, warmup: float, decay: float) -> Iterator[str]:
    if warmup + decay > 1:
        yield f"{key}.warmup={warmup} and {key}.decay={decay}: together at most 1"
