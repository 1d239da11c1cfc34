"""What activations cost: the sum over sites of the penalty of a token's activations, for vanilla their L1 norm."""

import torch

from scae.core.typing import Float, Tensor
from scae.objectives.comparison import Comparison
from scae.objectives.terms.term import Term


class Sparsity(Term):
    name, reads_stream, aux = "sparsity", False, "penalty"

    def __call__(self, comparison: Comparison) -> Float[Tensor, ""]:
        by_site = comparison.out.aux["penalty"].values()
        return torch.stack([each.sum() for each in by_site]).sum() / comparison.n_live
