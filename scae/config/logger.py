"""`logger`: where the curves of a fit are written."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from scae.config.section import Positive, Section


class Logger(Section):
    kind: Literal["csv", "tensorboard", "wandb"]
    every: Positive = Field(description="steps between two lines")
    project: str | None
    mode: Literal["offline", "online"] | None

    def problems(self, key: str) -> Iterator[str]:
        if self.kind == "wandb" and (self.project is None or self.mode is None):
            yield f"{key}.kind=wandb: needs {key}.project and {key}.mode; choose the group {key}=wandb, which sets both"
