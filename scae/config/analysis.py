"""`analysis`: how much held-out text a suite is looked at on, and how much of what is found is kept."""

from typing import Annotated

from pydantic import Field

from scae.config.active import Unnamed
from scae.config.section import Positive, Section


class Analysis(Section):
    tokens: Annotated[Positive | None, Unnamed("a name has the number that it stands for")] = Field(
        description="held-out tokens, at least one window; null: evaluation.tokens"
    )
    examples: Positive = Field(description="largest activations that are kept of a feature, each of another window")
    neighbours: Positive = Field(description="features kept of a feature that are like it, or active with it")
    edges: Positive | None = Field(
        description="connections between two sites that are checked by changing the model; null: none"
    )
    prompts: Positive | None = Field(
        description="prompts, beginnings of windows, whose circuits are scored: how much of a prediction they explain; "
        "null: none"
    )
