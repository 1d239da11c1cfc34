"""A site: where a dictionary stands, and what that makes of the dictionary.

    kind      replaces what is written by    reads                         along
    attn      the attention of its layer     that same output              the heads of the attention
    mlp       the MLP of its layer           what the MLP reads            the stream itself
    clt       the MLP of its layer           what the MLP reads            the stream itself
    mlp_out   the MLP of its layer           that same output              nothing linear
    resid     the stream after its layer     that same stream              nothing: it is the stream
    hook      one activation by its name     that same activation          nothing linear

Two more have no dictionary that could be trained. `embed` is a source: its features are the tokens of the vocabulary,
one is active at each position, and its decoder rows are what the model's embedding writes. `unembed` is a sink: its
features are the next tokens, its encoder rows those of the unembedding, its pre-activations the logits. With them a
feature reads only those tokens, and a prediction only those features, that it is connected to (`sites.embed`,
`sites.unembed`).

A dictionary that reads what it replaces is an autoencoder, one that reads the input of what it replaces a transcoder.
A crosslayer transcoder (clt) also writes to every later MLP that has one, as does each of them to those behind it: what
stands in for an MLP is the sum of what all of them write there (`further`).
The path is how the residual stream reaches what is read: the dense and the pruned pass follow it, and the virtual
weight of a connection is measured along it. Sites without one are served by the plain and the spliced pass alone. A
further kind of site is one more row of `KINDS`.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from scae.core.typing import Stream
from scae.lm import Trace
from scae.lm.modules import EMBED, UNEMBED, Levels, Module
from scae.lm.modules import Kind as ModuleKind
from scae.lm.paths import Attention, Direct, LinearPaths, Path, ToLogits

Kind = Literal["embed", "attn", "mlp", "unembed", "clt", "mlp_out", "resid", "hook"]


@dataclass(frozen=True)
class Rule:
    """What a kind of site is. replaces: the module, or point, that a reconstruction takes the place of; transcoder: the
    dictionary reads what that module reads, and not what it writes; path: how the stream reaches what is read, None
    where it does not."""

    replaces: ModuleKind
    transcoder: bool
    path: type[Path] | None


KINDS: dict[Kind, Rule] = {
    "embed": Rule(replaces="embed", transcoder=False, path=None),
    "attn": Rule(replaces="attn", transcoder=False, path=Attention),
    "mlp": Rule(replaces="mlp", transcoder=True, path=Direct),
    "unembed": Rule(replaces="unembed", transcoder=True, path=ToLogits),
    "clt": Rule(replaces="mlp", transcoder=True, path=Direct),
    "mlp_out": Rule(replaces="mlp", transcoder=False, path=None),
    "resid": Rule(replaces="resid", transcoder=False, path=None),
    "hook": Rule(replaces="hook", transcoder=False, path=None),
}


@dataclass(frozen=True)
class Site:
    """A place for a dictionary; written `"3.attn"`, `"embed"` and `"unembed"` where there is one of it, or as the name
    that TransformerLens has for an activation, `"blocks.3.hook_resid_post"`."""

    layer: int
    kind: Kind
    hook: str = ""

    @classmethod
    def at(cls, hook: str) -> "Site":
        """The activation of this name; outside the layers it counts as what comes before them."""
        layer = re.match(r"blocks\.(\d+)\.", hook)
        return cls(int(layer[1]) if layer else EMBED.layer, "hook", hook)

    @classmethod
    def parse(cls, text: str) -> "Site":
        if "hook_" in text:
            return cls.at(text)
        layer, _, kind = text.partition(".")
        for end in (SOURCE, SINK):
            if text == str(end):
                return end
        for known in IN_LAYERS:
            if layer.isdigit() and kind == known:
                return cls(int(layer), known)
        raise ValueError(
            f"'{text}' is no site: write LAYER.KIND with kind one of {', '.join(IN_LAYERS)}, as in '3.attn', or one of "
            f"{SOURCE}, {SINK}, or the name of an activation, as in 'blocks.3.hook_resid_post'"
        )

    def __str__(self) -> str:
        return self.hook or (self.kind if self in (SOURCE, SINK) else f"{self.layer}.{self.kind}")

    @property
    def module(self) -> Module:
        """Whose output its dictionary replaces; a point, where it replaces an activation itself."""
        return Module(self.layer, KINDS[self.kind].replaces, self.hook)

    @property
    def transcoder(self) -> bool:
        return KINDS[self.kind].transcoder

    @property
    def linear(self) -> bool:
        """Whether the stream reaches it along a linear path, as the dense and the pruned pass need it."""
        return KINDS[self.kind].path is not None

    def path(self, weights: LinearPaths) -> Path:
        """How the residual stream reaches what is read here; raises ValueError where it does not."""
        path = KINDS[self.kind].path
        if path is None:
            raise ValueError(f"no linear path of the residual stream leads to {self}")
        return path(weights, self.module)


SOURCE, SINK = Site(EMBED.layer, "embed"), Site(UNEMBED.layer, "unembed")
IN_LAYERS = tuple(kind for kind in KINDS if kind not in (SOURCE.kind, SINK.kind, "hook"))


def in_order(sites: Iterable[Site], levels: Levels) -> list[list[Site]]:
    """The sites at the modules of each level, level by level: a site reads from those of the levels before its own.

    A point is a level of its own, behind the modules of its layer.
    """
    by_module = {site.module: site for site in sites}
    placed = [(level[0].layer, [by_module[module] for module in level if module in by_module]) for level in levels]
    placed += [(site.layer, [site]) for site in by_module.values() if not site.module.writes]
    return [found for _, found in sorted(placed, key=lambda one: one[0])]  # stable: modules before points


def further(site: Site, sites: Iterable[Site]) -> tuple[int, ...]:
    """The layers behind its own whose MLPs a dictionary at `site`, one of `sites`, writes to as well."""
    if site.kind != "clt":
        return ()
    return tuple(sorted(other.layer for other in sites if other.kind == "clt" and other.layer > site.layer))


def read_at(sites: Iterable[Site], trace: Trace, paths: LinearPaths) -> Iterator[tuple[Site, Stream]]:
    """What a dictionary at each of these sites reads in a clean run."""
    by_module = {site.module: site for site in sites}
    if trace.reads is not None:
        for module, output in trace.outputs.items():
            yield by_module[module], trace.reads.get(module, output)
        return
    for module, stream in trace.streams(paths.levels):
        site = by_module.get(module)
        if site is not None:
            yield site, site.path(paths).read(stream, trace) if site.transcoder else trace.outputs[module]
    for site in by_module.values():
        if not site.module.writes:
            yield site, trace.outputs[site.module]
