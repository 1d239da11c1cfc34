"""A weighted sum of loss terms; a term of weight zero is not even built."""

from collections.abc import Collection
from dataclasses import dataclass

import torch

from scae.config import AnySae, Loss
from scae.core.typing import Float, Tensor
from scae.lm import LinearPaths, Trace
from scae.objectives.comparison import Comparison
from scae.objectives.terms import TERMS, Term
from scae.suite import SuiteOutput


@dataclass(frozen=True)
class LossOutput:
    """The weighted sum and the terms it was made of, before weighting."""

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]


class Objective:
    """`objective(out, trace, paths)` is the loss of one pass."""

    def __init__(self, terms: list[Term], *, offers: Collection[str] | None = None) -> None:
        """offers: the auxiliary quantities that the dictionaries have, None: whatever a term wants; a term that wants
        another is left out, too."""
        self.terms = [term for term in terms if term.weight and _there(term, offers)]

    @classmethod
    def from_config(cls, loss: Loss, sae: AnySae) -> "Objective":
        sections = {name: getattr(loss, name) for name in Loss.model_fields}
        return cls([TERMS[name](**section.model_dump()) for name, section in sections.items()], offers=sae.offers)

    def __str__(self) -> str:
        return " + ".join(f"{term.weight:g} {term.name}" for term in self.terms)

    @property
    def reads_stream(self) -> bool:
        """Whether any term looks at what the reconstructions do together."""
        return any(term.reads_stream for term in self.terms)

    @property
    def aux(self) -> frozenset[str]:
        """The auxiliary quantities that the terms want of the dictionaries."""
        return frozenset(term.aux for term in self.terms if term.aux is not None)

    def __call__(self, out: SuiteOutput, trace: Trace, paths: LinearPaths) -> LossOutput:
        comparison = Comparison(out, trace, paths)
        terms = {term.name: term(comparison) for term in self.terms}
        total = trace.embed.new_zeros(())
        for term in self.terms:
            total = total + term.weight * terms[term.name]
        return LossOutput(total, {name: value.detach() for name, value in terms.items()})

    @torch.no_grad()
    def by_token(self, out: SuiteOutput, trace: Trace, paths: LinearPaths) -> dict[str, Float[Tensor, "batch pos"]]:
        """What each token adds to the loss, by part, as far as its terms can be split by token."""
        comparison = Comparison(out, trace, paths)
        parts: dict[str, Float[Tensor, "batch pos"]] = {}
        for term in self.terms:
            parts |= {part: term.weight * value for part, value in term.by_token(comparison).items()}
        return parts


def _there(term: Term, offers: Collection[str] | None) -> bool:
    """Whether the dictionaries have what a term wants of them."""
    return term.aux is None or offers is None or term.aux in offers
