"""The codes of one site over a text, to be walked from either end: from tokens to features and from features to tokens.

    crow          [token + 1]     where the features of each token begin in feature, value
    feature_crow  [feature + 1]   where the tokens of each feature begin in token, by_feature

The arrays may be memory-mapped: nothing here copies them.
"""

from dataclasses import dataclass, fields
from typing import no_type_check

import numpy as np
import torch
from numba import njit

from scae.kernels import SparseCode, Support
from scae.report.analysis_files import Tables


@dataclass(frozen=True, eq=False)
class Codes:
    """crow, feature_crow: int64; feature, token: int32; value, by_feature: float32, or float64; all values > 0."""

    crow: np.ndarray
    feature: np.ndarray
    value: np.ndarray
    feature_crow: np.ndarray
    token: np.ndarray
    by_feature: np.ndarray

    @classmethod
    def of(cls, code: SparseCode) -> "Codes":
        """Of a code in memory; entries that only carry a gradient, with the activation 0, are left out."""
        kept = code.entries(code.value > 0)
        crow, feature = kept.crow.cpu().numpy().astype(np.int64), kept.col.cpu().numpy().astype(np.int32)
        value = kept.value.detach().cpu().numpy()
        feature_crow = np.zeros(code.n_features + 1, np.int64)
        np.cumsum(np.bincount(feature, minlength=code.n_features), out=feature_crow[1:])
        token, by_feature = np.empty(len(feature), np.int32), np.empty(len(feature), value.dtype)
        _turn(crow, feature, value, feature_crow[:-1].copy(), token, by_feature)
        return cls(crow, feature, value, feature_crow, token, by_feature)

    @classmethod
    def stored(cls, file: Tables, n_tokens: int) -> "Codes":
        """Of the first tokens of a database: left on disk where these are all of them, in memory otherwise."""
        if n_tokens == len(crow := file.mapped("crow")) - 1:
            return cls(*(file.mapped(one.name) for one in fields(cls)))
        stop = int(crow[n_tokens])
        n_features = file.shapes["feature_crow"][0] - 1
        crow, feature, value = crow[: n_tokens + 1], file.rows("feature", 0, stop), file.rows("value", 0, stop)
        support = Support(torch.from_numpy(crow.copy()), torch.from_numpy(feature).long(), n_features)
        return cls.of(SparseCode(support, torch.from_numpy(value)))

    @property
    def n_tokens(self) -> int:
        return len(self.crow) - 1

    @property
    def n_features(self) -> int:
        return len(self.feature_crow) - 1


@njit(cache=True)
@no_type_check
def _turn(crow, feature, value, fill, token, by_feature):
    for n in range(len(crow) - 1):
        for p in range(crow[n], crow[n + 1]):
            at = fill[feature[p]]
            fill[feature[p]] += 1
            token[at], by_feature[at] = n, value[p]
