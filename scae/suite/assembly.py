"""Dictionaries at their sites in a model, and the connections between their features: what the passes run over."""

from collections.abc import Collection, Mapping
from typing import Literal

from torch import nn

from scae.config import AuxK
from scae.connections import Connections, Layout
from scae.core.typing import Float, Tensor
from scae.dictionaries import Dictionary, Picking
from scae.kernels import SparseCode
from scae.lm import UNEMBED, LanguageModel, Module, Path, Trace
from scae.sites import SINK, SOURCE, Site
from scae.suite.ends import Sink, Source
from scae.suite.virtual_weights import Input, Rows, VirtualWeights

Mode = Literal["plain", "spliced", "dense", "pruned"]


class Assembly(nn.Module):
    """The dictionaries by site; what runs them is `scae.suite.Suite`.

    sites: those with a dictionary, in order; `layout` has the source and the sink too, where there are any.
    lm: the frozen model, a plain attribute: not saved, not optimised, not synchronised.
    auxk: when a feature counts as dead, and how it is revived in training; None: never, not at all.
    chunk_mb: what the pre-activations of a site, and what its connections need on the way to them, may take at a time;
        None: whatever they take.
    threshold_pass: the pass in which BatchTopK's thresholds were learned (`scae.suite.thresholds`); None: in none yet.
    """

    chunk_mb: int | None = None
    threshold_pass: Mode | None = None

    def __init__(
        self,
        dictionaries: Mapping[Site, Dictionary],
        lm: LanguageModel,
        *,
        ends: Collection[Site] = (),
        auxk: AuxK | None = None,
    ) -> None:
        """ends: SOURCE, SINK, both or none; without one, the embedding belongs to the base of every feature, and every
        feature takes part in every prediction."""
        super().__init__()
        self.lm = lm
        self.auxk = auxk
        self.source = Source(lm) if SOURCE in ends else None
        self.sink = Sink(lm) if SINK in ends else None
        sizes = {site: own.n_features for site, own in dictionaries.items()}
        sizes |= {site: end.n_features for site, end in ((SOURCE, self.source), (SINK, self.sink)) if end is not None}
        for site in dictionaries:
            lm.watch(site.module)
        self.layout = Layout.of(sizes, lm.paths.order)
        if set(self.layout.sites) != set(sizes):
            names = ", ".join(map(str, sizes))
            raise ValueError(f"needed: sites in layers of the model, no two at one module; got {names}")
        self.sites = tuple(site for site in self.layout.sites if site in dictionaries)
        self.dictionaries = nn.ModuleDict({_key(site): dictionaries[site] for site in self.sites})
        self._at = {site.module: site for site in self.sites}
        self.connect(Connections.complete(self.layout))

    @property
    def revives(self) -> AuxK | None:
        """How dead features are revived in this pass; None: they are not."""
        return self.auxk if self.training else None

    @property
    def picking(self) -> list[Picking]:
        """The activations that pick a number of features, which may fall while they are trained."""
        activations = (self[site].activation for site in self.sites)
        return [activation for activation in activations if isinstance(activation, Picking)]

    def __getitem__(self, site: Site) -> Dictionary:
        return self.dictionaries[_key(site)]  # type: ignore[return-value]

    def __contains__(self, site: object) -> bool:
        return site in self.sites

    def site_at(self, module: Module) -> Site | None:
        """The site whose dictionary replaces what this module writes; None where there is none."""
        return self._at.get(module)

    def reads(self, site: Site) -> Rows:
        """The encoder rows of a site, or of the sink; raises ValueError where they are read in units of each token."""
        if site == SINK and self.sink is not None:
            return Rows(self.sink.rows, self.sink.rows.new_ones(()))
        return Rows(self[site].encoder.rows, self[site].reads.fixed)

    def writes(self, site: Site, reader: Module) -> Rows:
        """The decoder rows of a site, or of the source, as `reader` meets them on the stream."""
        if site == SOURCE and self.source is not None:
            return Rows(self.source.rows(reader), self.source.writes.scale)
        return Rows(self[site].decoder.rows(reader), self[site].writes.fixed)

    def codes_of_ends(self, trace: Trace) -> dict[Site, SparseCode]:
        """The tokens of a run as activations of the source, and those that follow as activations of the sink."""
        ends = {SOURCE: self.source, SINK: self.sink}
        return {site: end.code(trace) for site, end in ends.items() if end is not None}

    def scales(self, trace: Trace) -> dict[Module, Float[Tensor, "batch pos 1"]]:
        """By what the stream is divided on its way to each module, in the clean run; to the sink, too."""
        return trace.scales if self.sink is None else trace.scales | {UNEMBED: self.path(SINK).scales(trace)}

    def path(self, site: Site) -> Path:
        """How the residual stream reaches what is read at `site`."""
        return site.path(self.lm.paths)

    def demand_paths(self) -> None:
        """Raises ValueError where some site is not reached along a linear path."""
        if unreached := [str(site) for site in self.sites if not site.linear]:
            raise ValueError(
                f"no linear path of the residual stream leads to {', '.join(unreached)}: a suite with them is served "
                "by the plain and the spliced pass, and not by the dense and the pruned one"
            )

    def demand_pruned(self) -> None:
        """Raises ValueError where no pruned pass serves the suite."""
        self.demand_paths()
        if skipping := [str(site) for site in self.sites if self[site].skip is not None]:
            raise ValueError(f"no pruned pass: the skip of {', '.join(skipping)} reads the stream without a connection")

    @property
    def connections(self) -> Connections:
        """Which features each feature reads from in the pruned pass; a new suite has all connections."""
        return self.virtual.connections

    def connect(self, connections: Connections) -> None:
        """Let the pruned pass run along these connections."""
        if connections.layout != self.layout:
            raise ValueError(f"connections of {connections.layout} cannot join a suite of {self.layout}")
        self.virtual = VirtualWeights(connections, reads=self.reads, writes=self.writes, path=self.path)

    def inputs(self, site: Site | str, feature: int) -> list[Input]:
        """The connections into one feature, strongest first by the size of the virtual weight."""
        return self.virtual.inputs(Site.parse(site) if isinstance(site, str) else site, feature)


def _key(site: Site) -> str:
    return str(site).replace(".", "_")  # a module name cannot hold a dot
