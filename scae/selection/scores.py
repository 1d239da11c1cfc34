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

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch

from scae.kernels import SparseCode, tally
from scae.lm import Trace
from scae.sites import Site
from scae.suite import Suite
from scae.typing import Bool, Float, Tensor

Weighting = Literal["all", "firing", "activation"]


@dataclass(frozen=True)
class Record:
    """What the scores need of one batch of a pass: of the plain one, where connections are chosen."""

    trace: Trace
    codes: dict[Site, SparseCode]


R = TypeVar("R", bound=Record)


@torch.no_grad()
def record(suite: Suite, traces: Iterable[Trace]) -> list[Record]:
    """Run the plain pass over a sample; the suite's inference thresholds apply."""
    was_training = suite.training
    suite.eval()
    records = [Record(trace, suite(trace, mode="plain").codes) for trace in traces]
    suite.train(was_training)
    return records


def chunks(suite: Suite, site: Site, megabytes: int) -> Iterator[slice]:
    """Runs of features of `site` whose scores, by head, stay below `megabytes`."""
    heads = suite.lm.paths.W_O.shape[1] if site.kind == "attn" else 1
    size = suite.layout.size(site)
    step = max(1, megabytes * 2**20 // (4 * heads * max(1, suite.layout.n_upstream(site))))
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))


@torch.no_grad()
def mean_contributions(
    suite: Suite, site: Site, rows: slice, records: list[Record], weighting: Weighting
) -> Float[Tensor, "down up"]:
    """The scores of all upstream features for the features `rows` of `site`."""
    silent = _silent(site, rows, records)

    def weights(one: Record) -> Tensor:
        return _weights(one, site, rows, weighting, silent)

    norm = torch.stack([weights(one).sum(0) for one in records]).sum(0)
    return summed_contributions(suite, site, rows, records, weights) / norm.clamp_min(1e-12)[:, None]


@torch.no_grad()
def summed_contributions(
    suite: Suite, site: Site, rows: slice, records: list[R], weights: Callable[[R], Float[Tensor, "token down"]]
) -> Float[Tensor, "down up"]:
    """`sum_t w_i(t) c_ij(t)` over all records, whatever the weights are, of all upstream features for `rows`."""
    paths, upstream = suite.lm.paths, suite.layout.upstream(site)
    total: Tensor | float = 0.0
    for one in records:
        at_keys = _moved_back(one.trace, site, weights(one))
        n_heads, n_rows = at_keys.shape[1:]
        sums = torch.cat([tally(one.codes[up], at_keys.flatten(1)) for up in upstream])
        total = total + sums.view(-1, n_heads, n_rows)
    readers = paths.readers(site, suite[site].W_enc[rows] / suite[site].reads.scale)
    writers = torch.cat([paths.writers(site, suite[up].W_dec * suite[up].writes.scale) for up in upstream])
    score = torch.zeros(readers.shape[0], writers.shape[0], dtype=readers.dtype, device=readers.device)
    for h in range(readers.shape[1]):
        score += readers[:, h] @ writers[:, h].T * total[:, h].T  # type: ignore[index]
    return score


def _silent(site: Site, rows: slice, records: list[Record]) -> Bool[Tensor, " down"]:
    fired = torch.stack([one.codes[site].fired() for one in records]).any(0)
    return ~fired[rows]


def _weights(
    one: Record, site: Site, rows: slice, weighting: Weighting, silent: Bool[Tensor, " down"]
) -> Float[Tensor, "token down"]:
    live = one.trace.live.flatten()
    dtype = one.trace.embed.dtype
    if weighting == "all":
        return live[:, None].to(dtype).expand(-1, len(silent))
    activations = one.codes[site].columns(rows).dense()
    weights = (activations > 0).to(dtype) if weighting == "firing" else activations
    return torch.where(silent, live[:, None].to(dtype), weights)


def _moved_back(trace: Trace, site: Site, weights: Float[Tensor, "token down"]) -> Float[Tensor, "token head down"]:
    """The weights of each query, at the positions whose contributions reach it, over the scale there."""
    if site.kind == "mlp":
        return (weights / trace.scales[site].reshape(-1, 1))[:, None]
    assert trace.patterns is not None
    batch, pos = trace.live.shape
    moved = torch.einsum("bhqk,bqf->bkhf", trace.patterns[site.layer], weights.view(batch, pos, -1))
    return (moved / trace.scales[site][..., None]).flatten(0, 1)
