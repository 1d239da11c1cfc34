"""`sites`: where the model gets a dictionary."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from scae.config.active import Neutral
from scae.config.section import Layers, Section, distinct


class Sites(Section):
    layers: Layers
    kinds: Annotated[list[Literal["attn", "mlp"]], Field(min_length=1), AfterValidator(distinct)]
    embed: Annotated[bool, Neutral(False)] = Field(
        description="whether features read tokens along connections only; false: from the base, all"
    )
    unembed: Annotated[bool, Neutral(False)] = Field(
        description="whether logits read features along connections only; false: from all of them"
    )

    def names(self, n_layers: int) -> list[str]:
        """The sites of a model of so many layers, as a user writes them."""
        layers = range(n_layers) if self.layers == "all" else self.layers
        return [f"{layer}.{kind}" for layer in layers for kind in self.kinds]
