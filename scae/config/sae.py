"""`sae`: the type and the size of a dictionary, the same at every site. A type of dictionary is one class here."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from scae.config.active import SWITCH, Neutral, Unnamed
from scae.config.errors import null
from scae.config.section import Fraction, Positive, Section


class AuxK(Section):
    """When a feature counts as dead, and how dead features come back to life; how strongly, `loss.auxk.weight` says."""

    k: Positive = Field(description="dead features that reconstruct the error of a token")
    dead_after: Positive = Field(description="tokens without firing after which a feature counts as dead")


class Bound(Section):
    """No activation exceeds `margin` times the largest that its feature has in the plain pass."""

    margin: Annotated[Annotated[float, Field(ge=1)] | None, SWITCH] = Field(
        description="null: activations are not bounded"
    )
    tokens: Positive = Field(description="training tokens on which the largest activations are found")


class Sae(Section):
    """What every type of dictionary has; all sites share these settings."""

    features: Positive | None = Field(description="absolute size; null: expansion x d_model")
    expansion: Positive | None
    centred: bool = Field(description="whether the unit of a site subtracts its mean, as it divides by its size")
    normalise: Annotated[Literal["dataset", "token", "none"], Neutral("dataset")] = Field(
        description="what the unit of a site divides by: one size for all tokens, each token's own, or nothing"
    )
    bound: Bound
    auxk: Annotated[AuxK, Unnamed("the losses that read it have it in their names")]

    offers: ClassVar[frozenset[str]] = frozenset({"revived"})
    """What a dictionary can be asked for by a loss term (`scae.dictionaries.Encoded`)."""

    @property
    def spec(self) -> dict[str, Any]:
        """What a dictionary of this type is made from, but for its shape: the type, the settings of it alone, and
        whether every token has a unit of its own."""
        own = [name for name in type(self).model_fields if name not in Sae.model_fields]
        settings = {"type" if name == "kind" else name: getattr(self, name) for name in own}
        return settings | ({"by_token": True} if self.normalise == "token" else {})

    def size(self, d_model: int) -> int:
        return self.features if self.features is not None else (self.expansion or 0) * d_model

    @property
    def picked(self) -> int | None:
        """Features that it picks for a token; None: as many as are positive."""
        return None

    def problems(self, key: str) -> Iterator[str]:
        if (self.features is None) == (self.expansion is None):
            both = f"{key}.features={null(self.features)} and {key}.expansion={null(self.expansion)}"
            yield f"{both}: set exactly one of them, the other to null"
        if self.picked is not None and self.features is not None and self.picked > self.features:
            more = f"{key}.k={self.picked}: more than {key}.features={self.features}"
            yield f"{more}; lower {key}.k or raise {key}.features"


class VanillaSae(Sae):
    """ReLU: whatever is positive is active."""

    kind: Literal["vanilla"]
    offers: ClassVar[frozenset[str]] = frozenset({"penalty", "revived"})


class TopKSae(Sae):
    kind: Literal["topk"]
    k: Positive = Field(description="features a token")

    @property
    def picked(self) -> int:
        return self.k


class BatchTopKSae(Sae):
    kind: Literal["batchtopk"]
    k: Positive = Field(description="features a token, on average over a batch")
    threshold_rate: Fraction = Field(description="step of the running mean that learns the inference threshold")

    @property
    def picked(self) -> int:
        return self.k


AnySae = Annotated[VanillaSae | TopKSae | BatchTopKSae, Field(discriminator="kind")]
