"""Which features fire together, over the N live tokens of a text.

n_i: tokens at which feature i fires, n_ij: at which both do; f_i(t): its activation, 0 where it does not fire;
m_i, s_i: mean and standard deviation of f_i over live tokens.

    jaccard       n_ij / (n_i + n_j - n_ij)                       1: they fire at the same tokens
    pmi           log(N n_ij / (n_i n_j))                         nats; 0: as often as if they did not know each other
    correlation   (mean_t f_i(t) f_j(t) - m_i m_j) / (s_i s_j)

All three are sums over the tokens at which both fire. A sparse product, one feature at a time: its tokens are walked,
and at each of them the features of the other site. Costs, over all pairs of sites,

    time      sum over tokens of (entries of the token at all sites)^2 steps: 0.3e9 for 16,384 tokens x 8 sites x 16
              entries, 0.6e12 for 1 M tokens x 12 sites x 64
    memory    12 bytes x features of a site for each thread, and 28 bytes x top for each feature; the codes themselves
              may stay on disk (`Codes`). Features x features is formed nowhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
import torch
from numba import njit, prange

from scae.analysis.sparse import Codes
from scae.core.typing import Float, Int, Tensor
from scae.kernels.threads import threads
from scae.sites import Site


@dataclass(frozen=True)
class Coactive:
    """The features that fire most with each feature of a site, by Jaccard, then correlation, then order; where there
    are fewer, -1 and NaN.

    site: position among the sites that were given; feature: its number there.
    """

    site: Int[Tensor, "feature top"]
    feature: Int[Tensor, "feature top"]
    jaccard: Float[Tensor, "feature top"]
    correlation: Float[Tensor, "feature top"]
    pmi: Float[Tensor, "feature top"]


def coactive(codes: Mapping[Site, Codes], *, n_live: int, top: int = 8) -> dict[Site, Coactive]:
    """Per site, for each feature the `top` others of all sites that fire with it.

    codes: of the same tokens at every site, live ones alone having entries; n_live: how many of them are live.
    """
    sites = list(codes)
    moments = {site: _moments(codes[site], n_live) for site in sites}
    found = {}
    for site in sites:
        ours = codes[site]
        best = np.full((ours.n_features, top, 3), -np.inf)
        at = np.full((ours.n_features, top, 2), -1, np.int32)
        for number, other in enumerate(sites):
            theirs = codes[other]
            _pairs(
                ours.feature_crow, ours.token, ours.by_feature, *moments[site],
                theirs.crow, theirs.feature, theirs.value, *moments[other], theirs.feature_crow,
                n_live, number, other == site, best, at, threads(),
            )  # fmt: skip
        best[at[..., 0] < 0] = np.nan
        measures = (torch.from_numpy(best[..., i]).float() for i in range(3))
        feature = torch.from_numpy(at[..., 1].copy())
        found[site] = Coactive(torch.from_numpy(at[..., 0].astype(np.int16)), feature, *measures)
    return found


def _moments(codes: Codes, n_live: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each feature over live tokens, in float64."""
    total, square = np.zeros(codes.n_features), np.zeros(codes.n_features)
    _sums(codes.feature_crow, codes.by_feature, total, square)
    mean = total / n_live
    return mean, np.sqrt(np.maximum(square / n_live - mean**2, 0.0))


@njit(cache=True)
@no_type_check
def _sums(feature_crow, by_feature, total, square):
    for i in range(len(total)):
        for p in range(feature_crow[i], feature_crow[i + 1]):
            v = np.float64(by_feature[p])
            total[i] += v
            square[i] += v * v


@njit(parallel=True, cache=True)
@no_type_check
def _pairs(
    feature_crow, token, by_feature, mean, deviation, crow, feature, value, other_mean, other_deviation, other_crow,
    n_live, number, same, best, at, chunks
):  # fmt: skip
    """Features are dealt out to threads; each has the sums of one feature with those of the other site open."""
    n_features, top = best.shape[:2]
    n_other = len(other_mean)
    for chunk in prange(chunks):
        counts, products = np.zeros(n_other, np.int32), np.zeros(n_other)
        touched = np.empty(n_other, np.int32)
        for i in range(chunk, n_features, chunks):
            m = 0
            for p in range(feature_crow[i], feature_crow[i + 1]):
                v = np.float64(by_feature[p])
                for q in range(crow[token[p]], crow[token[p] + 1]):
                    j = feature[q]
                    if counts[j] == 0:
                        touched[m] = j
                        m += 1
                    counts[j] += 1
                    products[j] += v * value[q]
            n_i = feature_crow[i + 1] - feature_crow[i]
            for k in range(m):
                j = touched[k]
                both, product = counts[j], products[j]
                counts[j], products[j] = 0, 0.0
                if same and j == i:
                    continue
                n_j = other_crow[j + 1] - other_crow[j]
                jaccard = both / (n_i + n_j - both)
                if jaccard < best[i, top - 1, 0]:
                    continue
                spread = deviation[i] * other_deviation[j]
                correlation = (product / n_live - mean[i] * other_mean[j]) / spread if spread > 0 else np.nan
                pmi = np.log(np.float64(n_live) * both / (np.float64(n_i) * n_j))
                _insert(best[i], at[i], jaccard, correlation, pmi, number, j)


@njit(cache=True)
@no_type_check
def _insert(best, at, jaccard, correlation, pmi, site, feature):
    """Put a neighbour where it belongs, the largest Jaccard first, then the largest correlation, then by number."""
    place = len(best)
    while place > 0:
        b, a = best[place - 1], at[place - 1]
        if a[0] >= 0:
            if b[0] > jaccard:
                break
            if b[0] == jaccard:
                if b[1] > correlation:
                    break
                if not correlation > b[1] and (a[0] < site or (a[0] == site and a[1] < feature)):
                    break
        place -= 1
    if place == len(best):
        return
    for k in range(len(best) - 1, place, -1):
        best[k], at[k] = best[k - 1], at[k - 1]
    best[place, 0], best[place, 1], best[place, 2] = jaccard, correlation, pmi
    at[place, 0], at[place, 1] = site, feature
