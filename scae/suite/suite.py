"""A suite: one dictionary a site, and the passes that run them."""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager

from scae.config import AnySae
from scae.dictionaries import Shape, create
from scae.lm import LanguageModel, LinearPaths, Trace
from scae.sites import Kind, Site, further, in_order
from scae.suite.assembly import Assembly, Mode
from scae.suite.output import SuiteOutput
from scae.suite.passes import dense, plain, pruned, spliced
from scae.suite.reading import Meet

PASSES: dict[Mode, Callable[[Assembly, Trace, Collection[str], Meet | None], SuiteOutput]] = {
    "plain": plain,
    "spliced": spliced,
    "dense": dense,
    "pruned": pruned,
}


class Suite(Assembly):
    """`suite(trace, mode="pruned")` runs one of the passes of `scae.suite.passes`."""

    @classmethod
    def from_config(
        cls, sae: AnySae, sites: Iterable[Site], lm: LanguageModel, *, ends: Collection[Site] = ()
    ) -> "Suite":
        """A new suite. Whether a dictionary is an autoencoder or a transcoder, its site says."""
        dictionaries, sites = {}, list(sites)
        for site in sites:
            width = lm.watch(site.module)
            shape = Shape(sae.size(width), width, width, site.transcoder, further(site, sites))
            dictionaries[site] = create(shape, **sae.spec)
        suite = cls(dictionaries, lm, ends=ends, auxk=sae.auxk)
        for activation in suite.picking:
            activation.anneal = sae.annealed
        return suite

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Inside the block the thresholds of inference apply, and nothing is learned on the way."""
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)

    def forward(
        self, trace: Trace, mode: Mode = "pruned", *, aux: Collection[str] = (), meet: Meet | None = None
    ) -> SuiteOutput:
        """aux: the auxiliary quantities that a loss wants of the dictionaries (`scae.dictionaries.Encoded`); meet: is
        shown what each dictionary reads."""
        return PASSES[mode](self, trace, aux, meet)


def choose_sites(
    paths: LinearPaths,
    layers: str | list[int],
    kinds: Iterable[Kind],
    *,
    stride: int = 1,
    hook: str | None = None,
) -> list[Site]:
    """The sites that the configuration names, in order; raises ValueError for layers that the model does not have."""
    chosen = range(paths.n_layers) if isinstance(layers, str) else layers
    if any(layer >= paths.n_layers for layer in chosen):
        raise ValueError(f"sites.layers={layers}: this model has layers 0 to {paths.n_layers - 1}")
    wanted = [Site(layer, kind) for layer in chosen[::stride] for kind in kinds]
    wanted += [] if hook is None else [Site.at(hook)]
    return [site for level in in_order(wanted, paths.levels) for site in level]
