"""How much a feature is one thing in two passes: its activations p(t) and q(t) at the live tokens t.

agreement    correlation of p and q over all live tokens, the silent ones with them; NaN where one does not vary
jaccard      tokens at which both fire / tokens at which one of them does; NaN where none does
"""

import numpy as np

from scae.analysis.database import ENTRIES, Array, blocks
from scae.report.analysis_files import Tables


def agreement(one: Tables, other: Tables, n_live: int, *, entries: int = ENTRIES) -> dict[str, Array]:
    """`[feature]` of both, from the codes of the two passes; a run of tokens is held at a time."""
    crows = [codes["crow"] for codes in (one, other)]
    n_features = len(one["feature_crow"]) - 1
    # n, sum p, sum p^2, of both; then the tokens that they share and sum pq there
    own = np.zeros((2, 3, n_features))
    shared = np.zeros((2, n_features))
    for start, stop in blocks(crows[0] + crows[1], entries):
        keys, values = [], []
        for number, (codes, crow) in enumerate(zip((one, other), crows, strict=True)):
            first, last = int(crow[start]), int(crow[stop])
            feature, value = codes.rows("feature", first, last), codes.rows("value", first, last).astype(np.float64)
            row = np.repeat(np.arange(stop - start), np.diff(crow[start : stop + 1]))
            keys.append(row * n_features + feature)
            values.append(value)
            for power in range(3):
                own[number, power] += np.bincount(feature, weights=value**power, minlength=n_features)
        both, here, there = np.intersect1d(keys[0], keys[1], assume_unique=True, return_indices=True)
        feature = both % n_features
        shared[0] += np.bincount(feature, minlength=n_features)
        shared[1] += np.bincount(feature, weights=values[0][here] * values[1][there], minlength=n_features)
    (n_p, sum_p, square_p), (n_q, sum_q, square_q) = own
    n_both, products = shared
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt((n_live * square_p - sum_p**2) * (n_live * square_q - sum_q**2))
        correlation = (n_live * products - sum_p * sum_q) / np.where(spread > 0, spread, np.nan)
        jaccard = n_both / (n_p + n_q - n_both)
    return {"agreement": correlation.astype(np.float32), "jaccard": jaccard.astype(np.float32)}
