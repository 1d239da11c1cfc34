"""`sae`: the type and the size of a dictionary, the same at every site. A type of dictionary is one class here."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from scae.config.active import SWITCH, Neutral, ReadIf, Unnamed
from scae.config.errors import null
from scae.config.section import Count, Fraction, Positive, Section


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


class Mlp(Section):
    """Hidden layers of an encoder (`scae.dictionaries.mlp`)."""

    width: Positive
    depth: Annotated[int, Field(ge=1, le=64)] = Field(description="hidden layers")
    nonlinearity: Literal["relu", "gelu"]
    skip: bool = Field(description="beside a linear encoder, as which it begins; false: in its place")


PursuitMethod = Literal["gradient", "matching", "topk_pgd"]


class Pursuit(Section):
    """How codes are searched for (`scae.dictionaries.pursuit`)."""

    method: PursuitMethod
    steps: Count = Field(description="after the choice of the features; topk_pgd, which goes on choosing: in all")


class Sae(Section):
    """What every type of dictionary has; all sites share these settings."""

    features: Positive | None = Field(description="absolute size; null: expansion x d_model")
    expansion: Positive | None
    centred: bool = Field(description="whether the unit of a site subtracts its mean, as it divides by its size")
    bound: Bound
    auxk: Annotated[AuxK, Unnamed("the losses that read it have it in their names")]
    encoder: Annotated[Literal["linear", "mlp", "pursuit"], Neutral("linear")] = Field(
        description="what finds activations: a row a feature, hidden layers, or a search over the decoder's rows"
    )
    mlp: Annotated[Mlp, ReadIf(encoder="mlp")]
    pursuit: Annotated[Pursuit, ReadIf(encoder="pursuit")]

    offers: ClassVar[frozenset[str]] = frozenset({"revived"})
    """What a dictionary can be asked for by a loss term (`scae.dictionaries.Encoded`)."""
    searchable: ClassVar[bool] = False
    """Whether its codes may come from a search: it picks `k` features for every token."""

    @property
    def spec(self) -> dict[str, Any]:
        """What a dictionary of this type is made from, but for its shape: the type, and the settings of it alone."""
        own = [name for name in type(self).model_fields if name not in Sae.model_fields]
        spec = {"type" if name == "kind" else name: getattr(self, name) for name in own}
        if self.encoder != "linear":
            spec["encoder"] = {"kind": self.encoder} | getattr(self, self.encoder).model_dump()
        return spec

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
        if self.encoder == "pursuit" and not self.searchable:
            yield (
                f"{key}.encoder=pursuit: a search needs the number of features of each token, which {key}=topk alone "
                f"says; found {key}.kind={getattr(self, 'kind', None)}"
            )

    def unprunable(self, key: str) -> Iterator[str]:
        """Why a suite of these dictionaries has no pruned pass."""
        if self.encoder != "linear":
            yield f"{key}.encoder={self.encoder}: a feature has no direction there that connections are weighed along"


class VanillaSae(Sae):
    """ReLU: whatever is positive is active."""

    kind: Literal["vanilla"]
    offers: ClassVar[frozenset[str]] = frozenset({"penalty", "revived"})


class TopKSae(Sae):
    kind: Literal["topk"]
    k: Positive = Field(description="features a token")
    searchable: ClassVar[bool] = True

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
