"""A module: what writes to the residual stream of the model or reads it, and the order in which modules do so.

A point is no module, but a place where an activation can be seen and replaced: the stream itself after a layer, or
whatever else TransformerLens has a name for. It stands in the same type, so that a dictionary can stand at either.

Whether an attention output reaches the MLP of its own layer is a fact of the architecture, which the model's config
tells (`parallel_attn_mlp`) and its name does not. Nothing else of the house has an opinion on the order of modules.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["embed", "attn", "mlp", "unembed", "resid", "hook"]


@dataclass(frozen=True)
class Module:
    """The attention or the MLP of one layer, written `"3.attn"`; or what stands before and after all layers.

    Two kinds are points: `resid`, the stream after a layer; `hook`, the activation of that name.
    """

    layer: int
    kind: Kind
    hook: str = ""

    def __str__(self) -> str:
        return self.hook or (self.kind if self in (EMBED, UNEMBED) else f"{self.layer}.{self.kind}")

    @property
    def writes(self) -> bool:
        """Whether what it gives is added to the stream; what stands at a point is not."""
        return self.kind not in ("resid", "hook")

    @property
    def hook_out(self) -> str:
        """The TransformerLens name of what it writes, or of the point."""
        if self.kind == "resid":
            return f"blocks.{self.layer}.hook_resid_post"
        if self == EMBED:
            return "blocks.0.hook_resid_pre"
        return self.hook or f"blocks.{self.layer}.hook_{self.kind}_out"

    @property
    def hook_pattern(self) -> str:
        """The TransformerLens name of an attention's pattern."""
        return f"blocks.{self.layer}.attn.hook_pattern"

    @property
    def hook_scores(self) -> str:
        """The TransformerLens name of an attention's scores, from which the pattern is made."""
        return f"blocks.{self.layer}.attn.hook_attn_scores"


EMBED, UNEMBED = Module(-1, "embed"), Module(1 << 30, "unembed")
"""The embedding writes the stream that the first layer reads; the unembedding reads what the last one leaves."""

Levels = tuple[tuple[Module, ...], ...]
"""Modules in order, grouped: each reads the embedding and everything of the groups before its own, and nothing else."""


def levels(n_layers: int, *, parallel: bool) -> Levels:
    """The modules of the layers of a model.

    parallel: attention and MLP of a layer read the same stream (GPT-NeoX), so neither reads the other.
    """
    by_layer = [(Module(layer, "attn"), Module(layer, "mlp")) for layer in range(n_layers)]
    return tuple(by_layer) if parallel else tuple((module,) for layer in by_layer for module in layer)
