"""Groups of features that fire together: Markov clustering (van Dongen 2000) of the graph of nearest neighbours.

The graph has an edge between two features where one is among the nearest of the other (`scae.analysis.coactivation`)
and their Jaccard is at least `least`; it weighs that Jaccard. A walker on it soon leaves no group that is dense inside:

    M      = column-stochastic, M_ij ~ J_ij, M_jj ~ 1                  where a walker at j goes next
    expand   M <- M M                                                   two steps
    inflate  M_ij <- M_ij^inflation / sum_k M_kj^inflation              the likely becomes likelier

repeated until M stands still. Two features are in one cluster where a walker from the one may end at the other. Nothing
is drawn and no order is gone through: features in another order give the same clusters. Entries below 1e-3 are dropped
after each step, so a column never holds more than 1000.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, no_type_check

import numpy as np
import torch
from numba import njit, prange

from scae.analysis.coactivation import Coactive
from scae.analysis.sparse import Codes
from scae.core.typing import Int, Tensor
from scae.kernels.threads import threads
from scae.sites import Site

SMALLEST = 1e-3
ROUNDS = 60


@dataclass(frozen=True)
class Cluster:
    """members: `(site, feature)`, those first with which most others fire, on average over its tokens; examples: the
    tokens at which most members fire, of equal ones those at which their activations, over their largest, are largest
    together."""

    id: int
    members: list[tuple[Site, int]]
    examples: list[int]

    def record(self, *, members: int = 50) -> dict[str, Any]:
        """As it stands in `analysis.json`."""
        named = [[str(site), feature] for site, feature in self.members[:members]]
        return {"id": self.id, "size": len(self.members), "members": named, "examples": self.examples}


def cluster(
    codes: Mapping[Site, Codes],
    coactive: Mapping[Site, Coactive],
    *,
    least: float = 0.2,
    rare: int = 4,
    inflation: float = 2.0,
    examples: int = 16,
    window: Int[Tensor, " token"] | None = None,
) -> tuple[dict[Site, Int[Tensor, " feature"]], list[Cluster]]:
    """The number of the cluster of each feature, -1 where it is alone; and the clusters, the largest first.

    least: the smallest Jaccard that counts; rare: features that fire at fewer tokens are left alone, what they share
    may be chance; window: of each token; with it no two examples of a cluster come from one window.
    """
    sites = list(codes)
    offsets = np.cumsum([0] + [codes[site].n_features for site in sites])
    fires = np.concatenate([np.diff(codes[site].feature_crow) for site in sites])
    label = _components(*_markov(*_graph(sites, coactive, offsets, fires >= rare, least), inflation))
    sizes = np.bincount(label, minlength=1)
    first = np.full(len(sizes), len(label))
    np.minimum.at(first, label, np.arange(len(label)))
    order = [one for one in np.lexsort((first, -sizes)) if sizes[one] > 1]
    number = np.full(len(sizes), -1, np.int32)
    number[order] = np.arange(len(order), dtype=np.int32)
    ids = number[label]
    by_id = np.argsort(ids, kind="stable")
    groups = np.split(by_id[(ids < 0).sum() :], np.cumsum(sizes[order])[:-1]) if order else []
    windows = None if window is None else window.cpu().numpy()
    clusters = []
    for one, features in enumerate(groups):
        named = [
            (sites[(at := int(np.searchsorted(offsets, f, side="right")) - 1)], int(f - offsets[at])) for f in features
        ]
        clusters.append(_described(one, named, codes, examples, windows))
    return {site: torch.from_numpy(ids[offsets[k] : offsets[k + 1]].copy()) for k, site in enumerate(sites)}, clusters


def _graph(
    sites: list[Site], coactive: Mapping[Site, Coactive], offsets: np.ndarray, common: np.ndarray, least: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The symmetric graph with a loop of 1 at every node, in CSC form."""
    start = torch.from_numpy(offsets)
    rows, cols, weights = [], [], []
    for k, site in enumerate(sites):
        near = coactive[site]
        i, rank = (near.jaccard >= least).nonzero(as_tuple=True)  # NaN is not
        rows.append((start[near.site[i, rank].long()] + near.feature[i, rank]).numpy())
        cols.append((i + offsets[k]).numpy())
        weights.append(near.jaccard[i, rank].double().numpy())
    row, col, weight = map(np.concatenate, (rows, cols, weights))
    kept = common[row] & common[col]
    row, col, weight = row[kept], col[kept], weight[kept]
    n = int(offsets[-1])
    loops = np.arange(n)
    row, col, weight = (
        np.concatenate(parts) for parts in ((row, col, loops), (col, row, loops), (weight, weight, np.ones(n)))
    )
    _, unique = np.unique(col * n + row, return_index=True)  # a pair may be near from both ends; sorted by column
    row, col, weight = row[unique], col[unique], weight[unique]
    crow = np.zeros(n + 1, np.int64)
    np.cumsum(np.bincount(col, minlength=n), out=crow[1:])
    return crow, row.astype(np.int64), weight


def _markov(crow: np.ndarray, row: np.ndarray, weight: np.ndarray, inflation: float) -> tuple[np.ndarray, np.ndarray]:
    """`(crow, row)` of the entries that are left when the walk stands still."""
    weight = weight / np.repeat(np.add.reduceat(weight, crow[:-1]), np.diff(crow))
    for _ in range(ROUNDS):
        before = crow, row, weight
        crow, row, weight = _step(crow, row, weight, inflation)
        if len(row) == len(before[1]) and (row == before[1]).all() and np.abs(weight - before[2]).max() < 1e-6:
            break
    return crow, row


def _step(
    crow: np.ndarray, row: np.ndarray, weight: np.ndarray, inflation: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, chunks = len(crow) - 1, threads()
    room = int(1 / SMALLEST)
    rows, weights, counts = [], [], []
    for start in range(0, n, 4096):  # columns whose widest result is held at a time
        stop = min(start + 4096, n)
        out_row, out_weight = np.empty((stop - start, room), np.int64), np.empty((stop - start, room))
        count = np.zeros(stop - start, np.int64)
        _expand(crow, row, weight, inflation, start, out_row, out_weight, count, chunks)
        filled = np.arange(room) < count[:, None]
        rows.append(out_row[filled])
        weights.append(out_weight[filled])
        counts.append(count)
    new = np.zeros(n + 1, np.int64)
    np.cumsum(np.concatenate(counts), out=new[1:])
    return new, np.concatenate(rows), np.concatenate(weights)


@njit(parallel=True, cache=True)
@no_type_check
def _expand(crow, row, weight, inflation, start, out_row, out_weight, count, chunks):
    n = len(crow) - 1
    for chunk in prange(chunks):
        total, touched = np.zeros(n), np.empty(n, np.int64)
        for c in range(chunk, len(count), chunks):
            j, m = start + c, 0
            for p in range(crow[j], crow[j + 1]):
                k = row[p]
                for q in range(crow[k], crow[k + 1]):
                    i = row[q]
                    if total[i] == 0:
                        touched[m] = i
                        m += 1
                    total[i] += weight[p] * weight[q]
            whole = 0.0
            for t in range(m):
                whole += total[touched[t]] ** inflation
            kept, left = 0, 0.0
            found = np.sort(touched[:m])
            for t in range(m):
                w = total[found[t]] ** inflation / whole
                total[found[t]] = 0
                if w > SMALLEST:
                    out_row[c, kept], out_weight[c, kept] = found[t], w
                    kept += 1
                    left += w
            for t in range(kept):
                out_weight[c, t] /= left
            count[c] = kept


@njit(cache=True)
@no_type_check
def _components(crow, row):
    """The number of the connected component of each node, its smallest node."""
    parent = np.arange(len(crow) - 1)
    for j in range(len(parent)):
        for p in range(crow[j], crow[j + 1]):
            a, b = j, row[p]
            while parent[a] != a:
                a = parent[a]
            while parent[b] != b:
                b = parent[b]
            low, high = min(a, b), max(a, b)
            parent[high] = low
    for j in range(len(parent)):  # a parent is smaller than its child, so it is settled
        parent[j] = parent[parent[j]]
    return parent


def _described(
    number: int, features: list[tuple[Site, int]], codes: Mapping[Site, Codes], examples: int, window: np.ndarray | None
) -> Cluster:
    tokens, strengths, owners = [], [], []
    for k, (site, feature) in enumerate(features):
        own = codes[site]
        where = slice(int(own.feature_crow[feature]), int(own.feature_crow[feature + 1]))
        values = np.asarray(own.by_feature[where], np.float64)
        tokens.append(np.asarray(own.token[where]))
        strengths.append(values / values.max())
        owners.append(np.full(len(values), k))
    token, strength, owner = map(np.concatenate, (tokens, strengths, owners))
    at, inverse, firing = np.unique(token, return_inverse=True, return_counts=True)
    total = np.bincount(inverse, weights=strength)
    best = np.lexsort((at, -total, -firing))
    if window is not None:
        _, first = np.unique(window[at[best]], return_index=True)
        best = best[np.sort(first)]
    company = np.bincount(owner, weights=firing[inverse] - 1.0) / np.bincount(owner)
    order = np.lexsort((np.arange(len(features)), -company))
    return Cluster(number, [features[k] for k in order], [int(t) for t in at[best[:examples]]])
