"""A module: what writes to the residual stream of the model or reads it, and the order in which modules do so.

Whether an attention output reaches the MLP of its own layer is a fact of the architecture, which the model's config
tells (`parallel_attn_mlp`) and its name does not. Nothing else of the house has an opinion on the order of modules.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["embed", "attn", "mlp", "unembed"]


@dataclass(frozen=True)
class Module:
    """The attention or the MLP of one layer, written `"3.attn"`; or what stands before and after all layers."""

    layer: int
    kind: Kind

    def __str__(self) -> str:
        return self.kind if self in (EMBED, UNEMBED) else f"{self.layer}.{self.kind}"

    @property
    def hook_out(self) -> str:
        """The TransformerLens name of what it writes."""
        return "blocks.0.hook_resid_pre" if self == EMBED else f"blocks.{self.layer}.hook_{self.kind}_out"

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
