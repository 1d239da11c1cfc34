"""A site: where a dictionary stands, and what that makes of the dictionary.

    kind    replaces what is written by    reads                         along
    attn    the attention of its layer     that same output              the heads of the attention
    mlp     the MLP of its layer           what the MLP reads            the stream itself

A dictionary that reads what it replaces is an autoencoder, one that reads the input of what it replaces a transcoder.
The path is how the residual stream reaches what is read: the dense and the pruned pass follow it, and the virtual
weight of a connection is measured along it. A further kind of site is one more row of `KINDS`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from scae.lm.modules import Kind as ModuleKind
from scae.lm.modules import Levels, Module
from scae.lm.paths import Attention, Direct, LinearPaths, Path

Kind = Literal["attn", "mlp"]


@dataclass(frozen=True)
class Rule:
    """What a kind of site is. replaces: the module whose output a reconstruction takes the place of; transcoder: the
    dictionary reads what that module reads, and not what it writes; path: how the stream reaches what is read."""

    replaces: ModuleKind
    transcoder: bool
    path: type[Path]


KINDS: dict[Kind, Rule] = {
    "attn": Rule(replaces="attn", transcoder=False, path=Attention),
    "mlp": Rule(replaces="mlp", transcoder=True, path=Direct),
}


@dataclass(frozen=True)
class Site:
    """A place in one layer for a dictionary; written `"3.attn"`."""

    layer: int
    kind: Kind

    @classmethod
    def parse(cls, text: str) -> "Site":
        layer, _, kind = text.partition(".")
        for known in KINDS:
            if layer.isdigit() and kind == known:
                return cls(int(layer), known)
        raise ValueError(f"'{text}' is no site: write LAYER.KIND with kind one of {', '.join(KINDS)}, as in '3.attn'")

    def __str__(self) -> str:
        return f"{self.layer}.{self.kind}"

    @property
    def module(self) -> Module:
        """Whose output its dictionary replaces."""
        return Module(self.layer, KINDS[self.kind].replaces)

    @property
    def transcoder(self) -> bool:
        return KINDS[self.kind].transcoder

    def path(self, weights: LinearPaths) -> Path:
        return KINDS[self.kind].path(weights, self.module)


def in_order(sites: Iterable[Site], levels: Levels) -> list[list[Site]]:
    """The sites at the modules of each level, level by level: a site reads from those of the levels before its own."""
    by_module = {site.module: site for site in sites}
    return [[by_module[module] for module in level if module in by_module] for level in levels]
