"""Loss terms, a file each, by their name under `loss` in the configuration."""

from scae.objectives.terms.auxk import AuxK
from scae.objectives.terms.block_mse import BlockMse
from scae.objectives.terms.ce import CrossEntropy
from scae.objectives.terms.logit_kl import LogitKl
from scae.objectives.terms.recon import Recon
from scae.objectives.terms.sparsity import Sparsity
from scae.objectives.terms.term import Term

TERMS: dict[str, type[Term]] = {term.name: term for term in (Recon, BlockMse, LogitKl, CrossEntropy, Sparsity, AuxK)}

__all__ = ["TERMS", "AuxK", "BlockMse", "CrossEntropy", "LogitKl", "Recon", "Sparsity", "Term"]
