"""A suite: one dictionary a site, the connections between their features, and the model that they stand in."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from torch import nn

from scae.config import AnySae, AuxK
from scae.connections import Connections, Layout
from scae.dictionaries import CHUNK_MB, Dictionary
from scae.lm import LanguageModel, LinearPaths, Trace
from scae.sites import Site
from scae.suite.wiring import Wiring

if TYPE_CHECKING:
    from scae.suite.output import SuiteOutput

Mode = Literal["plain", "spliced", "dense", "pruned"]


class Suite(nn.Module):
    """The dictionaries by site. `suite(trace, mode="pruned")` runs one of the passes of `scae.suite.passes`.

    lm: the frozen model, a plain attribute: not saved, not optimised, not synchronised.
    auxk: when a feature counts as dead, and how it is revived in training; None: never, not at all.
    chunk_mb: what the pre-activations of a site, and what its connections need on the way to them, may take at a time.
    threshold_pass: the pass in which BatchTopK's thresholds were learned (`scae.suite.thresholds`); None: in none yet.
    """

    chunk_mb: int = CHUNK_MB
    threshold_pass: Mode | None = None

    def __init__(self, dictionaries: dict[Site, Dictionary], lm: LanguageModel, *, auxk: AuxK | None = None) -> None:
        super().__init__()
        self.lm = lm
        self.auxk = auxk
        self.layout = Layout(
            tuple(sorted(dictionaries)),
            tuple(dictionaries[site].n_features for site in sorted(dictionaries)),
            lm.paths.parallel,
        )
        self.dictionaries = nn.ModuleDict({_key(site): dictionaries[site] for site in sorted(dictionaries)})
        self.connections = Wiring(self, Connections.complete(self.layout))

    @classmethod
    def from_config(cls, sae: AnySae, sites: Iterable[Site], lm: LanguageModel) -> "Suite":
        """A new suite: autoencoders on attention outputs, transcoders on MLPs."""
        d_model = lm.paths.d_model
        return cls(
            {site: Dictionary.from_config(sae, d_model=d_model, transcoder=site.kind == "mlp") for site in sites},
            lm,
            auxk=sae.auxk,
        )

    @property
    def sites(self) -> tuple[Site, ...]:
        return self.layout.sites

    @property
    def revives(self) -> AuxK | None:
        """How dead features are revived in this pass; None: they are not."""
        return self.auxk if self.training and self.auxk is not None and self.auxk.weight else None

    def __getitem__(self, site: Site) -> Dictionary:
        return self.dictionaries[_key(site)]  # type: ignore[return-value]

    def __contains__(self, site: object) -> bool:
        return site in self.layout.sites

    def connect(self, connections: Connections) -> None:
        """Let the pruned pass run along these connections; a new suite has all of them."""
        self.connections = Wiring(self, connections)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Inside the block the thresholds of inference apply, and nothing is learned on the way."""
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)

    def forward(self, trace: Trace, mode: Mode = "pruned") -> "SuiteOutput":
        from scae.suite import passes

        return getattr(passes, mode)(self, trace)


def choose_sites(paths: LinearPaths, layers: str | list[int], kinds: list[str]) -> list[Site]:
    """The sites that the configuration names; raises ValueError for layers that the model does not have."""
    beyond = [layer for layer in layers if layer >= paths.n_layers] if not isinstance(layers, str) else []
    if beyond:
        raise ValueError(f"sites.layers={layers}: this model has layers 0 to {paths.n_layers - 1}")
    return [site for site in paths.modules if site.kind in kinds and (layers == "all" or site.layer in layers)]


def _key(site: Site) -> str:
    return f"{site.layer}_{site.kind}"  # a module name cannot hold a dot
