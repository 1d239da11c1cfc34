"""A site: one module output of the language model that a dictionary replaces.

The order of sites is the order in which a forward pass computes them. Whether an attention output reaches the MLP of
its own layer is a fact of the architecture (`parallel_attn_mlp`), so `precedes` asks for it and never guesses.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["attn", "mlp"]
KINDS: tuple[Kind, ...] = ("attn", "mlp")


@dataclass(frozen=True, order=True)
class Site:
    """The output of the attention or of the MLP of one layer; written `"3.attn"`."""

    layer: int
    kind: Kind

    @classmethod
    def parse(cls, text: str) -> "Site":
        layer, _, kind = text.partition(".")
        if not layer.isdigit() or kind not in KINDS:
            raise ValueError(
                f"'{text}' is no site: write LAYER.KIND with kind one of {', '.join(KINDS)}, as in '3.attn'"
            )
        return cls(int(layer), kind)

    def __str__(self) -> str:
        return f"{self.layer}.{self.kind}"

    @property
    def hook_out(self) -> str:
        """The TransformerLens name of the module's output."""
        return f"blocks.{self.layer}.hook_{self.kind}_out"

    @property
    def hook_pattern(self) -> str:
        """The TransformerLens name of the layer's attention pattern."""
        return f"blocks.{self.layer}.attn.hook_pattern"

    @property
    def hook_scores(self) -> str:
        """The TransformerLens name of the layer's attention scores, from which the pattern is made."""
        return f"blocks.{self.layer}.attn.hook_attn_scores"


def precedes(up: Site, down: Site, *, parallel: bool) -> bool:
    """Whether the output of `up` is part of what `down` reads.

    parallel: attention and MLP of a layer read the same stream (GPT-NeoX), so neither reads the other.
    """
    if up.layer != down.layer:
        return up.layer < down.layer
    return not parallel and up.kind == "attn" and down.kind == "mlp"


def levels(modules: Iterable[Site], *, parallel: bool) -> list[list[Site]]:
    """Group modules, in order, so that each reads everything of the groups before its own and nothing of its own."""
    groups: list[list[Site]] = []
    for site in sorted(modules):
        if groups and not precedes(groups[-1][0], site, parallel=parallel):
            groups[-1].append(site)
        else:
            groups.append([site])
    return groups
