"""Loss terms, a file each, by their name under `loss` in the configuration."""

from scae.objectives.terms.auxk import AuxK
from scae.objectives.terms.block_mse import BlockMse
from scae.objectives.terms.ce import CrossEntropy
from scae.objectives.terms.logit_kl import LogitKl
from scae.objectives.terms.partial import Partial
from scae.objectives.terms.recon import Recon
from scae.objectives.terms.sparsity import Sparsity
from scae.objectives.terms.term import Term

ALL: tuple[type[Term], ...] = (Recon, BlockMse, LogitKl, CrossEntropy, Sparsity, Partial, AuxK)
TERMS: dict[str, type[Term]] = {term.name: term for term in ALL}

__all__ = ["TERMS", "AuxK", "BlockMse", "CrossEntropy", "LogitKl", "Partial", "Recon", "Sparsity", "Term"]
