"""Examples of a feature: a token, and how strongly the feature fires on it and around it.

An example is one list of integers, [place, offset, strength, offset, strength, ...]: the place of its token in `Texts`,
and where in its context, which ends with its window, the feature fires. Strength: in thousandths of the feature's
largest activation in the pass, at least 1.
"""

import numpy as np

from scae.report.analysis_files import Analysis, Array
from scae.report.pages.tokens import Texts

BEFORE, AFTER = 20, 12
"""Tokens shown around an example's."""
FULL = 1000


def read_examples(
    analysis: Analysis, texts: Texts, site: str, mode: str, start: int, chosen: Array, largest: Array
) -> list[list[list[int]]]:
    """Of features start, start + 1, ... the examples; an empty one where there is none.

    chosen [features, examples]: their tokens, -1 for none; largest [features]: activations
    """
    features = len(chosen)
    codes = analysis.codes(site, mode)
    crow = codes.rows("feature_crow", start, start + features + 1)
    n = analysis.n_tokens
    owner = np.repeat(np.arange(features), np.diff(crow))
    keys = owner * n + codes.rows("token", int(crow[0]), int(crow[-1]))
    order = np.argsort(keys)
    keys, values = keys[order], codes.rows("by_feature", int(crow[0]), int(crow[-1]))[order]

    offsets = np.arange(-BEFORE, AFTER + 1)
    position = chosen[..., None] % analysis.context_size + offsets
    wanted = np.arange(features)[:, None, None] * n + chosen[..., None] + offsets
    found = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    inside = (chosen[..., None] >= 0) & (position >= 0) & (position < analysis.context_size)
    fires = inside & (keys[found] == wanted) if len(keys) else np.zeros_like(inside)

    which, _, at = np.nonzero(fires)
    scale = np.where(largest > 0, largest, 1.0)[which]
    strength = np.clip(np.rint(values[found[fires]] / scale * FULL), 1, FULL).astype(np.int64)
    pairs = np.stack([offsets[at], strength], axis=1).ravel().tolist()
    ends = (2 * np.cumsum(fires.sum(axis=2).ravel())).tolist()
    places = texts.place(chosen).ravel().tolist()
    flat = [
        [place, *pairs[begin:end]] if place >= 0 else []
        for place, begin, end in zip(places, [0, *ends[:-1]], ends, strict=True)
    ]
    width = chosen.shape[1]
    return [flat[i * width : (i + 1) * width] for i in range(features)]
