"""The reconstruction loss once more for every other code that a type of dictionary has to rebuild the target with.

sum over sites and over the partial reconstructions of each (`scae.dictionaries.Encoded`) of what `recon` makes of one:
of gated dictionaries by their gates, of matryoshka ones by the first groups of their features
"""

from scae.core.typing import Float, Tensor
from scae.objectives.comparison import Comparison
from scae.objectives.terms.recon import Recon
from scae.sites import Site


class Partial(Recon):
    name, aux = "partial", "partial"
    what = "the partial reconstructions"

    def _by_site(self, comparison: Comparison) -> dict[Site, Float[Tensor, " live"]]:
        shape, by_site = comparison.trace.embed.shape, {}
        for site, several in comparison.out.aux["partial"].items():
            each = [self._each(comparison, site, one.view(shape)) for one in several]
            by_site[site] = sum(each[1:], each[0])
        return by_site
