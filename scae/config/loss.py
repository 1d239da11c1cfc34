"""`loss` and `pretrain.loss`: every term of a loss, each with a weight; 0: it is not computed.

The equations are in `scae.objectives`.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from scae.config.active import SWITCH, Neutral, ReadIf
from scae.config.section import Layers, Rate, Section, Weight


class Recon(Section):
    weight: Annotated[Weight, SWITCH]
    kind: Literal["fvu", "mse", "huber"]
    knee: Annotated[Rate, ReadIf(kind="huber")] = Field(
        description="kind=huber: the error, in units of its site, beyond which the loss is linear"
    )


class Partial(Recon):
    """The same for what a type of dictionary has to reconstruct the target with beside its code: gated its gates,
    matryoshka the first groups of its features; the others have nothing of the kind."""


class BlockMse(Section):
    weight: Annotated[Weight, SWITCH]
    layers: Layers = Field(description="layers after which the residual streams are compared")


class LogitKl(Section):
    weight: Annotated[Weight, SWITCH]
    temperature: Annotated[float, Field(gt=0, le=10**6), Neutral(1.0)]


class Weighted(Section):
    """A term that has nothing but a weight.

    ce: of the text; sparsity: of what a type of dictionary has to pay for, vanilla the L1 norm, gated that of its
    gates, jumprelu the L0, types that pick their number nothing; auxk: of what dead features (`sae.auxk`) leave of the
    error.
    """

    weight: Annotated[Weight, SWITCH]


WANTS = {"sparsity": "penalty", "partial": "partial", "auxk": "revived"}
"""What a term wants of the dictionaries (`scae.dictionaries.Encoded`); there is no such term for those without it."""

BESIDE = tuple(WANTS)
"""Terms that keep a dictionary in order; none of them trains it to reconstruct anything."""


BY_SITE = ("recon", *BESIDE)
"""Terms that look at each site alone, and so need nothing of the stream between the sites."""


class Loss(Section):
    recon: Recon
    block_mse: BlockMse
    logit_kl: LogitKl
    ce: Weighted
    sparsity: Weighted
    partial: Partial
    auxk: Weighted

    @property
    def across_sites(self) -> list[str]:
        """The terms that are on and may look at what the reconstructions do together."""
        return [term for term in Loss.model_fields if term not in BY_SITE and getattr(self, term).weight]

    def problems(self, key: str) -> Iterator[str]:
        terms = [term for term in Loss.model_fields if term not in BESIDE]
        if not any(getattr(self, term).weight for term in terms):
            weights = ", ".join(f"{key}.{term}.weight" for term in terms)
            yield f"{key}: every weight is 0; needed: more than 0 for at least one of {weights}"
