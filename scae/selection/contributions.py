"""How much each upstream feature contributes to each feature of a site, on average.

The contribution of feature j to the pre-activation of feature i at token t is, in the pruned pass,

    MLP site            V_ij f_j(t) / s(t)                               V_ij   = E_i . P D_j
    attention site      sum_h V_ij^h sum_k A_h(t,k) f_j(k) / s(k)        V_ij^h = (W_O_h E_i) . (P D_j W_V_h)

and its score is the signed mean over tokens t with weights w_i(t):

    all         w = 1             the public code's choice: mostly tokens at which i is silent anyway
    firing      w = 1[f_i > 0]    ERA of Ameisen et al. 2025, "Circuit Tracing"
    activation  w = f_i           the mean over what i does when it does something (measured best)

A feature that never fires in the sample has no such tokens; it is scored over all of them. With R(k), the weights moved
back to the keys, every score is a virtual weight times a sum over the entries of a sparse code: nothing of size
features x features is formed but the chunk of downstream features under work.
"""

from collections.abc import Callable, Iterator
from typing import Literal

import torch

from scae.core.typing import Bool, Float, Tensor
from scae.kernels import spmm_transposed
from scae.selection.sample import R, Record, Sample
from scae.sites import Site
from scae.suite import Suite

Weighting = Literal["all", "firing", "activation"]


def chunks(suite: Suite, site: Site, megabytes: int, *, tokens: int = 0) -> Iterator[slice]:
    """Runs of features of `site` whose scores, by head, stay below `megabytes`, and their weights at so many tokens."""
    size, heads = suite.layout.size(site), suite.path(site).n_heads
    step = max(1, megabytes * 2**20 // (4 * heads * max(1, tokens, suite.layout.n_upstream(site))))
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))


@torch.no_grad()
def mean_contributions(
    suite: Suite, site: Site, rows: slice, sample: Sample[Record], weighting: Weighting
) -> Float[Tensor, "down up"]:
    """The scores of all upstream features for the features `rows` of `site`."""
    silent = _silent(site, rows, sample.records)

    def weights(one: Record) -> Tensor:
        return _weights(one, site, rows, weighting, silent)

    norm = torch.stack([weights(one).sum(0) for one in sample.records]).sum(0)
    return summed_contributions(suite, site, rows, sample, weights) / norm.clamp_min(1e-12)[:, None]


@torch.no_grad()
def summed_contributions(
    suite: Suite, site: Site, rows: slice, sample: Sample[R], weights: Callable[[R], Float[Tensor, "token down"]]
) -> Float[Tensor, "down up"]:
    """`sum_t w_i(t) c_ij(t)` over all records, whatever the weights are, of all upstream features for `rows`."""
    path, layout, upstream = suite.path(site), suite.layout, suite.layout.upstream(site)
    reads, n_heads, n_rows = suite.reads(site), path.n_heads, rows.stop - rows.start
    total = reads.rows.new_zeros(layout.n_upstream(site), n_heads, n_rows)
    for one, pattern in zip(sample.records, sample.patterns(site), strict=True):
        at_keys = path.move_back(weights(one), one.scales[site.module], pattern).flatten(1)
        for up in upstream:
            start = layout.offset(up)
            total[start : start + layout.size(up)] += spmm_transposed(one.codes[up], at_keys).view(-1, n_heads, n_rows)
    readers = path.readers(reads.rows[rows] / reads.scale)
    written = [suite.writes(up, site.module) for up in upstream]
    writers = torch.cat([path.writers(one.rows * one.scale) for one in written])
    score = torch.zeros(readers.shape[0], writers.shape[0], dtype=readers.dtype, device=readers.device)
    for h in range(readers.shape[1]):
        score += readers[:, h] @ writers[:, h].T * total[:, h].T
    return score


def _silent(site: Site, rows: slice, records: list[Record]) -> Bool[Tensor, " down"]:
    fired = torch.stack([one.codes[site].fired() for one in records]).any(0)
    return ~fired[rows]


def _weights(
    one: Record, site: Site, rows: slice, weighting: Weighting, silent: Bool[Tensor, " down"]
) -> Float[Tensor, "token down"]:
    live = one.live.flatten()
    dtype = one.scales[site.module].dtype
    if weighting == "all":
        return live[:, None].to(dtype).expand(-1, len(silent))
    activations = one.codes[site].columns(rows).dense()
    weights = (activations > 0).to(dtype) if weighting == "firing" else activations
    return torch.where(silent, live[:, None].to(dtype), weights)
