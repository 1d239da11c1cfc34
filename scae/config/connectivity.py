"""`connectivity`: which features upstream a feature may read from, and what they are chosen by."""

from collections.abc import Iterator
from typing import Annotated, Literal, get_args

from pydantic import Field

from scae.config.active import BY_CONTENT, UNNAMED, ReadIf
from scae.config.errors import null
from scae.config.section import Count, Positive, Section

Score = Literal["contribution", "random"]
SCORED = get_args(Score)
"""The methods that keep the largest of a score (`scae.selection.scores`)."""


class Connectivity(Section):
    method: Literal[Score, "all", "none", "file"]
    C: Annotated[Count, ReadIf(method=SCORED)] = Field(description="connections a feature may read from")
    scope: Annotated[Literal["joint", "per_site"], ReadIf(method=SCORED)] = Field(
        description="C over all upstream sites together, or for each of them"
    )
    weighting: Annotated[Literal["all", "firing", "activation"], ReadIf(method="contribution")] = Field(
        description="tokens the mean contribution is taken over"
    )
    tokens: Annotated[Positive, ReadIf(method="contribution")] = Field(
        description="training tokens that the contributions are measured on"
    )
    chunk_mb: Annotated[Positive, UNNAMED] = Field(description="bound on the score matrix held at a time")
    budget: Annotated[Literal["even", "by_score"], ReadIf(method="contribution", scope="joint")] = Field(
        description="C for every feature, or as many in all where they matter most; scope=per_site is always even"
    )
    spread: Annotated[Positive, ReadIf(budget="by_score")] = Field(
        description="budget=by_score: a feature gets between C / spread and C x spread"
    )
    path: Annotated[str | None, BY_CONTENT] = Field(description="method=file: a connections .safetensors")

    def problems(self, key: str) -> Iterator[str]:
        if (self.method == "file") != (self.path is not None):
            yield (
                f"{key}.path={null(self.path)}: {key}.method=file needs a connections .safetensors, the other methods "
                f"null; found {key}.method={self.method}"
            )
