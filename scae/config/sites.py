"""`sites`: where the model gets a dictionary."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from scae.config.active import Neutral
from scae.config.section import Layers, Positive, Section, Text, distinct

LINEAR = ("attn", "mlp", "clt")
"""Kinds that the residual stream reaches along a linear path, as the dense and the pruned pass need it."""

TRANSCODERS = ("mlp", "clt")
"""Kinds whose dictionaries read something else than they write."""


class Sites(Section):
    layers: Layers
    stride: Annotated[Positive, Neutral(1)] = Field(description="every so many of these layers, from the first")
    kinds: Annotated[list[Literal["attn", "mlp", "clt", "mlp_out", "resid"]], AfterValidator(distinct)] = Field(
        description="attn, mlp_out, resid: autoencoders of what is there; mlp: transcoders; clt: those that write to "
        "every later MLP as well"
    )
    hook: Annotated[Text | None, Neutral(None)] = Field(
        examples=["blocks.9.hook_resid_post"], description="one activation by the name that TransformerLens has for it"
    )
    embed: Annotated[bool, Neutral(False)] = Field(
        description="whether features read tokens along connections only; false: from the base, all"
    )
    unembed: Annotated[bool, Neutral(False)] = Field(
        description="whether logits read features along connections only; false: from all of them"
    )

    def chosen(self, n_layers: int) -> Sequence[int]:
        """The layers of a model of so many that have sites."""
        return (range(n_layers) if self.layers == "all" else self.layers)[:: self.stride]

    def count(self, n_layers: int) -> int:
        """How many sites there are."""
        return len(self.chosen(n_layers)) * len(self.kinds) + (self.hook is not None)

    def has(self, name: str, n_layers: int) -> bool:
        """Whether one of them is called so."""
        layer, _, kind = name.partition(".")
        in_layers = layer.isdecimal() and int(layer) in self.chosen(n_layers) and kind in self.kinds
        return in_layers or name == self.hook

    def names(self, n_layers: int) -> Iterator[str]:
        """The sites as a user writes them."""
        for layer in self.chosen(n_layers):
            for kind in self.kinds:
                yield f"{layer}.{kind}"
        if self.hook is not None:
            yield self.hook

    def problems(self, key: str) -> Iterator[str]:
        if not self.kinds and self.hook is None:
            yield f"{key}.kinds=[] and {key}.hook=null: no site; needed: one of them"
        of_mlps = [kind for kind in self.kinds if kind in ("mlp", "clt", "mlp_out")]
        if len(of_mlps) > 1:
            yield f"{key}.kinds={self.kinds}: {' and '.join(of_mlps)} replace the same MLP; allowed: one of them"
        if self.hook is not None and "hook_" not in self.hook:
            yield f"{key}.hook={self.hook}: no name of an activation; needed: one such as blocks.9.hook_resid_post"
        for end in ("embed", "unembed"):
            if getattr(self, end) and list(self.unprunable(key)):
                yield f"{key}.{end}=true: it has connections, and a suite on these sites is not pruned; allowed: false"

    def unprunable(self, key: str) -> Iterator[str]:
        """Why a suite on these sites has no dense and no pruned pass."""
        if other := [kind for kind in self.kinds if kind not in LINEAR]:
            yield f"{key}.kinds={self.kinds}: no linear path of the residual stream leads to {', '.join(other)}"
        if self.hook is not None:
            yield f"{key}.hook={self.hook}: no linear path of the residual stream leads there"
