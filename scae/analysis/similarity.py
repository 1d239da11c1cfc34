"""How alike the directions are that features write.

    cosine      D_i . D_j / (|D_i| |D_j|)                the angle alone, which no unit changes
    dot         (s_i D_i) . (s_j D_j) / s^2              D_i: decoder row in the unit of its site, s_i: that unit
    euclidean   |s_i D_i - s_j D_j| / s                  s: the root mean square of the units of all sites

So dot and euclidean compare rows as they stand on the stream, whatever site wrote them, and are the same for a model
whose stream is twice as large. A crosslayer feature is taken by what it writes at its own MLP. What stands at a point
that is no stream (a `hook` site) is another space: its features are compared with each other alone.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn.functional import normalize

from scae.core.typing import Float, Int, Tensor
from scae.sites import Site
from scae.suite import Suite

Measure = Literal["cosine", "dot", "euclidean"]


@dataclass(frozen=True)
class Similar:
    """The nearest rows of each feature of a site, nearest first; where there are fewer, -1 and NaN.

    site: position in `suite.sites`; feature: its number there; cosine: of the two decoder rows.
    """

    site: Int[Tensor, "feature top"]
    feature: Int[Tensor, "feature top"]
    cosine: Float[Tensor, "feature top"]


@torch.no_grad()
def similar(suite: Suite, *, top: int = 8, chunk_mb: int = 64) -> dict[Site, Similar]:
    """Per site, for each feature the `top` others of all sites whose decoder rows have the largest cosine with its own.

    A row of zeros has no direction: it has no neighbours and is nobody's. chunk_mb: bound on the cosines held at a
    time, features of one site by features of another. Costs 2 d_model operations a pair of features.
    """
    rows = {site: normalize(_rows(suite, site), dim=1) for site in suite.sites}
    return {site: _nearest(suite, site, rows, top, chunk_mb) for site in suite.sites}


@torch.no_grad()
def between(
    suite: Suite,
    one: tuple[Site, Int[Tensor, " one"]],
    other: tuple[Site, Int[Tensor, " other"]],
    *,
    measure: Measure = "cosine",
) -> Float[Tensor, "one other"]:
    """A measure of each of some features of a site with each of some features of another, or of the same.

    Raises ValueError where the two sites write in different spaces. NaN: the cosine with a row of zeros.
    """
    (here, some), (there, others) = one, other
    if _space(here) != _space(there):
        raise ValueError(f"{here} and {there} do not write to the same space: their features cannot be compared")
    ours, theirs = _rows(suite, here)[some], _rows(suite, there)[others]
    if measure == "cosine":
        return (ours @ theirs.T) / (ours.norm(dim=1)[:, None] * theirs.norm(dim=1))
    unit = torch.stack([suite[site].writes.scale for site in suite.sites]).square().mean().sqrt()
    ours, theirs = (rows * (suite[site].writes.scale / unit) for rows, site in ((ours, here), (theirs, there)))
    if measure == "dot":
        return ours @ theirs.T
    return torch.cdist(ours, theirs, compute_mode="donot_use_mm_for_euclid_dist")


def _rows(suite: Suite, site: Site) -> Float[Tensor, "feature d_out"]:
    return suite[site].decoder.W.detach()


def _space(site: Site) -> Site | None:
    """Where rows point: the stream (None), or what stands at a point of its own."""
    return site if site.module.kind == "hook" else None


def _nearest(
    suite: Suite, site: Site, rows: dict[Site, Float[Tensor, "feature d_out"]], top: int, chunk_mb: int
) -> Similar:
    parts = []
    largest = max(suite.layout.size(other) for other in suite.sites)
    step = max(1, chunk_mb * 2**20 // (rows[site].element_size() * largest))
    for part in torch.arange(len(rows[site]), device=rows[site].device).split(step):
        cosine = rows[site].new_full((len(part), 0), torch.nan)
        number = part.new_full((len(part), 0), -1)
        offset = 0
        for other in suite.sites:
            size = suite.layout.size(other)
            if _space(other) == _space(site):
                found = rows[site][part] @ rows[other].T
                found[:, ~rows[other].any(1)] = -torch.inf
                if other == site:
                    found.scatter_(1, part[:, None], -torch.inf)
                best = found.topk(min(top, size), dim=1)
                cosine = torch.cat([cosine, best.values], dim=1)
                number = torch.cat([number, best.indices + offset], dim=1)
                order = cosine.topk(min(top, cosine.shape[1]), dim=1)
                cosine, number = order.values, number.gather(1, order.indices)
            offset += size
        absent = (cosine == -torch.inf) | ~rows[site][part].any(1, keepdim=True)
        parts.append(_padded(cosine.masked_fill(absent, torch.nan), number.masked_fill(absent, -1), top))
    cosine, number = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    return Similar(*_located(number, [suite.layout.size(other) for other in suite.sites]), cosine.float())


def _padded(cosine: Tensor, number: Tensor, top: int) -> tuple[Tensor, Tensor]:
    missing = top - cosine.shape[1]
    if missing <= 0:
        return cosine, number
    pad = torch.nn.functional.pad
    return pad(cosine, (0, missing), value=torch.nan), pad(number, (0, missing), value=-1)


def _located(number: Int[Tensor, "feature top"], sizes: list[int]) -> tuple[Tensor, Tensor]:
    """From numbers over all sites to sites and numbers there; -1 stays."""
    ends = torch.tensor(sizes, device=number.device).cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    site = torch.searchsorted(ends, number.clamp_min(0), right=True)
    feature = number - starts[site]
    absent = number < 0
    return site.masked_fill(absent, -1).to(torch.int16), feature.masked_fill(absent, -1).to(torch.int32)
