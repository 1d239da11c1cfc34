"""`activations`: where pretraining has the model's activations from, the live model or a store on disk."""

from typing import Annotated, Literal

from pydantic import Field

from scae.config.section import Count, Positive, Section


class LiveActivations(Section):
    """The frozen model runs on every batch."""

    kind: Literal["live"]


class StoredActivations(Section):
    """The model runs once on the text; what the sites read and write is kept, shuffled, for every run that needs it."""

    kind: Literal["stored"]
    tokens: Positive | None = Field(
        description="training tokens to keep, BOS and padding counted, at most the text once; null: those that "
        "pretraining sees. A number lets runs of different lengths share a store"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        description="of the numbers on disk; bfloat16: half the size, rounded to 3 digits"
    )
    seed: Count = Field(
        description="which windows are kept, and how they are shuffled; a fixed number lets a sweep over `seed` share "
        "a store"
    )


AnyActivations = Annotated[LiveActivations | StoredActivations, Field(discriminator="kind")]
