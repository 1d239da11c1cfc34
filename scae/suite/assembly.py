"""Dictionaries at their sites in a model, and the connections between their features: what the passes run over."""

from collections.abc import Mapping
from typing import Literal

from torch import nn

from scae.config import AuxK
from scae.connections import Connections, Layout
from scae.dictionaries import CHUNK_MB, Dictionary
from scae.lm import LanguageModel, Module, Path
from scae.sites import Site
from scae.suite.virtual_weights import Input, VirtualWeights

Mode = Literal["plain", "spliced", "dense", "pruned"]


class Assembly(nn.Module):
    """The dictionaries by site; what runs them is `scae.suite.Suite`.

    lm: the frozen model, a plain attribute: not saved, not optimised, not synchronised.
    auxk: when a feature counts as dead, and how it is revived in training; None: never, not at all.
    chunk_mb: what the pre-activations of a site, and what its connections need on the way to them, may take at a time.
    threshold_pass: the pass in which BatchTopK's thresholds were learned (`scae.suite.thresholds`); None: in none yet.
    """

    chunk_mb: int = CHUNK_MB
    threshold_pass: Mode | None = None

    def __init__(self, dictionaries: Mapping[Site, Dictionary], lm: LanguageModel, *, auxk: AuxK | None = None) -> None:
        super().__init__()
        self.lm = lm
        self.auxk = auxk
        self.layout = Layout.of({site: own.n_features for site, own in dictionaries.items()}, lm.paths.levels)
        if set(self.layout.sites) != set(dictionaries):
            names = ", ".join(map(str, dictionaries))
            raise ValueError(f"needed: sites in layers of the model, no two at one module; got {names}")
        self.dictionaries = nn.ModuleDict({_key(site): dictionaries[site] for site in self.layout.sites})
        self._at = {site.module: site for site in self.layout.sites}
        self.connect(Connections.complete(self.layout))

    @property
    def sites(self) -> tuple[Site, ...]:
        return self.layout.sites

    @property
    def revives(self) -> AuxK | None:
        """How dead features are revived in this pass; None: they are not."""
        return self.auxk if self.training else None

    def __getitem__(self, site: Site) -> Dictionary:
        return self.dictionaries[_key(site)]  # type: ignore[return-value]

    def __contains__(self, site: object) -> bool:
        return site in self.layout.sites

    def site_at(self, module: Module) -> Site | None:
        """The site whose dictionary replaces what this module writes; None where there is none."""
        return self._at.get(module)

    def path(self, site: Site) -> Path:
        """How the residual stream reaches what the dictionary of `site` reads."""
        return site.path(self.lm.paths)

    @property
    def connections(self) -> Connections:
        """Which features each feature reads from in the pruned pass; a new suite has all of them."""
        return self.virtual.connections

    def connect(self, connections: Connections) -> None:
        """Let the pruned pass run along these connections."""
        if connections.layout != self.layout:
            raise ValueError(f"connections of {connections.layout} cannot join a suite of {self.layout}")
        self.virtual = VirtualWeights(connections, self.__getitem__, self.path)

    def inputs(self, site: Site | str, feature: int) -> list[Input]:
        """The connections into one feature, strongest first by the size of the virtual weight."""
        return self.virtual.inputs(Site.parse(site) if isinstance(site, str) else site, feature)


def _key(site: Site) -> str:
    return f"{site.layer}_{site.kind}"  # a module name cannot hold a dot
