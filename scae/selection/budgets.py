"""How many connections each feature may have: the same number, or more where they matter more.

    even       feature i keeps its C strongest
    by_score   all features together keep as many as `even` would, the strongest by

                   |score_ij| |D_i| sqrt(n_i / sum_k,t |D_k|^2 f_k(t)^2)      n_i: the tokens at which i fires

Without the edge (i, j) the activation of i is off by about score_ij at the n_i tokens where i fires, and the
reconstruction by |D_i| score_ij: the square of the measure is the error that the edge spares, as a share of what the
site writes. It has no unit, so sites compare. Errors of different edges add up as if independent: an assumption.

An error of a logit is no error of a site: connections into the sink (`sites.unembed`) are always shared out evenly.
A feature gets at least C / spread connections, so one or more, and at most C x spread. Only these candidates are held.
"""

from dataclasses import dataclass

import torch

from scae.core.typing import Bool, Float, Int, Tensor
from scae.selection.sample import Record
from scae.sites import Site
from scae.suite import Suite


@dataclass(frozen=True)
class Candidates:
    """The strongest upstream features of each feature of a site, strongest first (with scope=per_site: of each site).

    score: `[down, rank]` its size, 0: no candidate; up: `[down, rank]` which feature; whole: the sum of all sizes, not
    of the candidates alone.
    """

    score: Float[Tensor, "down rank"]
    up: Int[Tensor, "down rank"]
    whole: float


Chosen = dict[Site, Bool[Tensor, "down rank"]]
"""Which of the candidates are kept."""


@torch.no_grad()
def importance(suite: Suite, site: Site, records: list[Record]) -> Float[Tensor, " down"]:
    """What an error of 1 in the activation of each feature, where it fires, is to its site."""
    size = suite.layout.size(site)
    col = torch.cat([one.codes[site].col for one in records]).cpu()
    value = torch.cat([one.codes[site].value for one in records]).cpu().double()
    rows = suite[site].decoder.W.cpu().double().square().sum(1)
    fired = torch.bincount(col[value > 0], minlength=size)
    written = torch.bincount(col, weights=value.square(), minlength=size) @ rows
    return (fired * rows / written.clamp_min(1e-300)).sqrt()


def even(candidates: dict[Site, Candidates]) -> Chosen:
    """All of them: they are the C strongest of every feature."""
    return {site: these.score > 0 for site, these in candidates.items()}


def by_score(
    candidates: dict[Site, Candidates], importance: dict[Site, Float[Tensor, " down"]], C: int, spread: int
) -> Chosen:
    """The first C / spread of every feature, then the most important of all, as many as `even` has; ties by order."""
    if not candidates:  # no site reads from another
        return {}
    total = sum(int(strongest(these, C).sum()) for these in candidates.values())
    measure = torch.cat(
        [
            (these.score.double() * importance[site][:, None])
            .masked_fill(these.score == 0, -1.0)
            .masked_fill(strongest(these, -(-C // spread)), torch.inf)
            .flatten()
            for site, these in candidates.items()
        ]
    )
    chosen = torch.zeros(len(measure), dtype=torch.bool)
    chosen[torch.argsort(measure, descending=True, stable=True)[:total]] = True
    parts = chosen.split([these.score.numel() for these in candidates.values()])
    return {site: part.view_as(these.score) for part, (site, these) in zip(parts, candidates.items(), strict=True)}


def strongest(candidates: Candidates, count: int) -> Bool[Tensor, "down rank"]:
    """The first `count` of every feature."""
    return (torch.arange(candidates.score.shape[1]) < count) & (candidates.score > 0)
