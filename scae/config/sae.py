"""`sae`: the type and the size of a dictionary, the same at every site. A type of dictionary is one class here."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from scae.config.active import SWITCH, Neutral, ReadIf, Unnamed
from scae.config.errors import null
from scae.config.section import Count, Fraction, Positive, Rate, Section


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


class Anneal(Section):
    """More features a token at first: k falls linearly over the first steps of pretraining."""

    share: Annotated[Fraction | None, SWITCH] = Field(
        description="of the steps of pretraining, the first, over which k falls; null: it is k from the start"
    )
    k_start: Positive = Field(description="features a token at the first step")

    @property
    def on(self) -> "Anneal | None":
        return None if self.share is None else self

    def k(self, done: float, *, last: int) -> int:
        """k after this share of the steps. last: k once it has fallen."""
        left = 0.0 if self.share is None else max(0.0, 1 - done / self.share)
        return round(last + (self.k_start - last) * left)


class Mlp(Section):
    """Hidden layers of an encoder (`scae.dictionaries.mlp`)."""

    width: Positive
    depth: Annotated[int, Field(ge=1, le=64)] = Field(description="hidden layers")
    nonlinearity: Literal["relu", "gelu"]
    skip: bool = Field(description="beside a linear encoder, as which it begins; false: in its place")
    lr_factor: Rate = Field(description="the rate of hidden layers, and of what they add, is that of rows times this")


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
    normalise: Annotated[Literal["dataset", "token", "none"], Neutral("dataset")] = Field(
        description="what the unit of a site divides by: one size for all tokens, each token's own, or nothing"
    )
    bound: Bound
    auxk: Annotated[AuxK, Unnamed("the losses that read it have it in their names")]
    skip: Annotated[bool, Neutral(False)] = Field(
        description="whether a transcoder also writes a linear map of what it reads (Paulo et al. 2025)"
    )
    encoder: Annotated[Literal["linear", "mlp", "pursuit"], Neutral("linear")] = Field(
        description="what finds activations: a row a feature, hidden layers, or a search over the decoder's rows"
    )
    mlp: Annotated[Mlp, ReadIf(encoder="mlp")]
    pursuit: Annotated[Pursuit, ReadIf(encoder="pursuit")]
    kind: str

    offers: ClassVar[frozenset[str]] = frozenset({"revived"})
    """What a dictionary can be asked for by a loss term (`scae.dictionaries.Encoded`)."""
    searchable: ClassVar[bool] = False
    """Whether its codes may come from a search: it picks `k` features for every token."""

    @property
    def spec(self) -> dict[str, Any]:
        """What a dictionary of this type is made from, but for its shape: the type, the settings of it alone, and what
        is not as in most dictionaries."""
        own = [name for name in type(self).model_fields if name not in (*Sae.model_fields, "anneal")]
        spec = {"type": self.kind} | {name: getattr(self, name) for name in own}
        by_token = {"by_token": True} if self.normalise == "token" else {}
        spec |= by_token | ({"skip": True} if self.skip else {})
        if self.encoder != "linear":
            spec["encoder"] = {"kind": self.encoder} | getattr(self, self.encoder).model_dump()
        return spec

    def size(self, d_model: int) -> int:
        return self.features if self.features is not None else (self.expansion or 0) * d_model

    @property
    def picked(self) -> int | None:
        """Features that it picks for a token; None: as many as are positive."""
        return None

    @property
    def annealed(self) -> Anneal | None:
        """How k falls in pretraining; None: it does not."""
        return None

    def problems(self, key: str) -> Iterator[str]:
        if (self.features is None) == (self.expansion is None):
            both = f"{key}.features={null(self.features)} and {key}.expansion={null(self.expansion)}"
            yield f"{both}: set exactly one of them, the other to null"
        elif self.features is not None:
            size = f"{key}.features={self.features}"
            yield from self.size_problems(key, self.features, name=size, change=f"{key}.features")
        if self.annealed is not None and self.picked is not None and self.annealed.k_start < self.picked:
            less = f"{key}.anneal.k_start={self.annealed.k_start}: less than {key}.k={self.picked}"
            yield f"{less}, to which k falls; raise {key}.anneal.k_start, or set {key}.anneal.share=null"
        if self.encoder == "pursuit" and not self.searchable:
            yield (
                f"{key}.encoder=pursuit: a search needs the number of features of each token, which {key}=topk alone "
                f"says; found {key}.kind={self.kind}"
            )

    def unprunable(self, key: str) -> Iterator[str]:
        """Why dictionaries of these settings have no pruned pass."""
        if self.skip:
            yield f"{key}.skip=true: a skip reads the whole stream without a connection"
        if self.normalise == "token":
            yield f"{key}.normalise=token: every token has a unit of its own, so no connection has one weight"
        if self.encoder != "linear":
            yield f"{key}.encoder={self.encoder}: a feature has no direction there that connections are weighed along"

    def size_problems(self, key: str, features: int, *, name: str, change: str) -> Iterator[str]:
        """What there are too few features for. name: that number in the user's words; change: the key that sets it."""
        if self.picked is not None and self.picked > features:
            yield f"{key}.k={self.picked}: more than {name}; lower {key}.k or raise {change}"
        if self.annealed is not None and self.annealed.k_start > features:
            more = f"{key}.anneal.k_start={self.annealed.k_start}: more than {name}"
            yield f"{more}; lower {key}.anneal.k_start or raise {change}"


class VanillaSae(Sae):
    """ReLU: whatever is positive is active."""

    kind: Literal["vanilla"]
    offers: ClassVar[frozenset[str]] = frozenset({"penalty", "revived"})


class PickingSae(Sae):
    """A type that picks a number of features, for each token or on average."""

    k: Positive = Field(
        description="features a token; batchtopk, matryoshka: on average over a batch; groupmax: groups of features, "
        "of each of which the largest is active where it is positive"
    )

    @property
    def picked(self) -> int:
        return self.k


class AnnealedSae(PickingSae):
    """k may be larger at first."""

    anneal: Anneal

    @property
    def annealed(self) -> Anneal | None:
        return self.anneal.on


class ThresholdSae(AnnealedSae):
    """k on average over a batch; a threshold at inference."""

    threshold_rate: Fraction = Field(description="step of the running mean that learns the inference threshold")


class TopKSae(AnnealedSae):
    kind: Literal["topk"]
    searchable: ClassVar[bool] = True


class BatchTopKSae(ThresholdSae):
    kind: Literal["batchtopk"]


class MatryoshkaSae(ThresholdSae):
    """BatchTopK whose first groups of features reconstruct without the others, too."""

    kind: Literal["matryoshka"]
    groups: Annotated[list[Fraction], Field(min_length=2)] = Field(
        description="shares of the features, from the most general to the most special; together 1"
    )
    offers: ClassVar[frozenset[str]] = frozenset({"partial", "revived"})

    def problems(self, key: str) -> Iterator[str]:
        yield from super().problems(key)
        if abs(sum(self.groups) - 1) > 1e-6:
            yield f"{key}.groups={self.groups}: together {sum(self.groups):g}; needed: shares that are together 1"

    def size_problems(self, key: str, features: int, *, name: str, change: str) -> Iterator[str]:
        yield from super().size_problems(key, features, name=name, change=change)
        if min(self.groups) * features < 1:
            yield f"{key}.groups={self.groups}: one is less than a feature of {name}; needed: at least {1 / features:g}"


class GroupMaxSae(PickingSae):
    kind: Literal["groupmax"]

    def size_problems(self, key: str, features: int, *, name: str, change: str) -> Iterator[str]:
        yield from super().size_problems(key, features, name=name, change=change)
        if features % self.k:
            nearest = [k for k in range(1, features + 1) if features % k == 0]
            below = max((k for k in nearest if k < self.k), default=nearest[0])
            above = min((k for k in nearest if k > self.k), default=features)
            yield f"{key}.k={self.k}: groups of one size cannot be made of {name}; allowed: {below}, {above}, ..."


class JumpReLUSae(Sae):
    """A learned threshold for each feature."""

    kind: Literal["jumprelu"]
    threshold: Rate = Field(description="that every feature starts with")
    bandwidth: Rate = Field(description="width of the rectangle around a threshold from which it has a gradient")
    penalty: Literal["l0", "tanh"] = Field(description="what an activation costs: 1, or tanh(slope x activation)")
    slope: Annotated[Rate, ReadIf(penalty="tanh")] = Field(description="penalty=tanh: how fast the cost gets near 1")
    price: Rate = Field(description="what the penalty is multiplied with, beside loss.sparsity.weight")
    offers: ClassVar[frozenset[str]] = frozenset({"penalty", "revived"})


class GatedSae(Sae):
    """A gate decides which features are active, and a path of its own how much."""

    kind: Literal["gated"]
    price: Rate = Field(description="what the L1 norm of the gates is multiplied with, beside loss.sparsity.weight")
    offers: ClassVar[frozenset[str]] = frozenset({"penalty", "partial", "revived"})


AnySae = Annotated[
    VanillaSae | TopKSae | BatchTopKSae | MatryoshkaSae | GroupMaxSae | JumpReLUSae | GatedSae,
    Field(discriminator="kind"),
]
