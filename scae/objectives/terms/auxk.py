"""What dead features leave of the error: sum over sites of ||e - ehat||^2 / ||e||^2 (Gao et al. 2024, appendix A.2)."""

from scae.core.processes import averaged
from scae.core.typing import Float, Tensor
from scae.objectives.comparison import Comparison
from scae.objectives.terms.term import Term


class AuxK(Term):
    name, reads_stream, aux = "auxk", False, "revived"

    def __call__(self, comparison: Comparison) -> Float[Tensor, ""]:
        trace, out = comparison.trace, comparison.out
        total = trace.embed.new_zeros(())
        live = trace.live.flatten()
        for site, revived in out.aux.get("revived", {}).items():
            error = (trace.outputs[site.module] - out.outputs[site.module]).detach()[trace.live]
            total = total + (error - revived[live]).square().sum() / averaged(error.square().sum())
        return total
