"""What every section of the configuration is made of: ranges of values, and a base that refuses every other key.

A section is one frozen record a conf group, or a part of one. It has the type, the range and the meaning of every key,
and no value: values live in `conf/`. Rules between its own keys are in its `problems`.

A new key needs a type, a description and a line in `conf/`, and a word on what it does to the names of artifacts: read
`scae.config.active` first.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def distinct(items: list[Any]) -> list[Any]:
    twice = sorted({str(item) for item in items if items.count(item) > 1})
    if twice:
        raise ValueError(f"every item once ({', '.join(twice)} is there more than once)")
    return items


Count = Annotated[int, Field(ge=0, le=10**12)]  # far from what 64 bits hold, also times a batch or a megabyte
Positive = Annotated[int, Field(ge=1, le=10**12)]
Weight = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Text = Annotated[str, Field(min_length=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
FromZero = Annotated[float, Field(ge=0, lt=1)]
Layers = Literal["all"] | Annotated[list[Count], Field(min_length=1), AfterValidator(distinct)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def problems(self, key: str) -> Iterator[str]:
        """What no single key can check, one line each; key: where this section stands in the whole."""
        yield from ()
