"""What is known of a feature from its own activations, from `codes/<pass>/<site>.safetensors`.

For feature i with the activations f_i(t) > 0 at c_i of the n live tokens, strongest first:

    rate_i       c_i / n
    mean_i, max_i     over these c_i tokens
    histogram_i  how many of them are in each of B bins of equal width from 0 to max_i, the last one closed
    top_i        the E largest, at most one a window
    quantile_i   of each of Q bands of equal counts, strongest first, M tokens: one drawn from each M-th of the band; a
                 band of at most M tokens is given whole

A run of features with at most `HELD` entries together is held at a time.
"""

from dataclasses import dataclass

import numpy as np

from scae.analysis.database import Array, blocks
from scae.report.analysis_files import BANDS, BINS, DRAWN, Tables

HELD = 1 << 20  # entries, about 120 bytes each


@dataclass(frozen=True)
class Extent:
    """What of the text decides: how many of its positions are live, and how many make a window."""

    n_live: int
    context: int


def statistics(codes: Tables, extent: Extent, *, examples: int, seed: int, entries: int = HELD) -> dict[str, Array]:
    """By name, without the axis of passes: rate, mean, max, histogram, top, top_value, quantile, quantile_value.

    seed: of the draws; the same features get the same draws, however they are cut into runs.
    """
    crow = codes["feature_crow"]
    n_features = len(crow) - 1
    drawn = np.random.default_rng(seed).random((n_features, BANDS, DRAWN))
    found: dict[str, list[Array]] = {}
    for first, last in blocks(crow, entries):
        start, stop = int(crow[first]), int(crow[last])
        run = _Run(
            crow[first : last + 1] - start, codes.rows("token", start, stop), codes.rows("by_feature", start, stop)
        )
        of_run = run.moments(extent.n_live) | {"histogram": run.histogram()}
        of_run |= run.top(extent.context, examples) | run.bands(drawn[first:last])
        for name, values in of_run.items():
            found.setdefault(name, []).append(values)
    return {name: np.concatenate(parts) for name, parts in found.items()}


class _Run:
    """The activations of some features: where those of each begin, the token of each and its value."""

    def __init__(self, crow: Array, token: Array, value: Array) -> None:
        self.crow, self.token, self.value = crow, token, value
        self.counts = np.diff(crow)
        self.size = len(self.counts)
        self.row = np.repeat(np.arange(self.size), self.counts)

    @property
    def largest(self) -> Array:
        """NaN where there is none."""
        found = np.full(self.size, np.nan, dtype=np.float32)
        found[self.counts > 0] = self.value[self.crow[:-1][self.counts > 0]]
        return found

    def moments(self, n_live: int) -> dict[str, Array]:
        total = np.bincount(self.row, weights=self.value, minlength=self.size)
        with np.errstate(invalid="ignore"):
            mean = (total / self.counts).astype(np.float32)
        return {"rate": (self.counts / n_live).astype(np.float32), "mean": mean, "max": self.largest}

    def histogram(self) -> Array:
        """As `np.histogram(values, BINS, (0, max))` of each feature."""
        edges = np.linspace(0, self.largest.astype(np.float64), BINS + 1)  # [edge, feature]
        value, row = self.value.astype(np.float64), self.row
        bins = np.minimum((value / self.largest[row] * BINS).astype(np.int64), BINS - 1)
        bins -= value < edges[bins, row]
        bins += (value >= edges[bins + 1, row]) & (bins < BINS - 1)
        counts = np.bincount(row * BINS + bins, minlength=self.size * BINS)
        return counts.reshape(self.size, BINS).astype(np.int32)

    def top(self, context: int, examples: int) -> dict[str, Array]:
        window = self.token // context
        key = self.row * (int(window.max(initial=0)) + 1) + window
        _, first = np.unique(key, return_index=True)  # the first of each window is its strongest
        first = np.sort(first)
        row = self.row[first]
        counts = np.bincount(row, minlength=self.size)
        rank = np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
        kept = rank < examples
        return self._table("top", (self.size, examples), (row[kept], rank[kept]), first[kept])

    def bands(self, drawn: Array) -> dict[str, Array]:
        """drawn: `[feature, band, draw]` from 0 to 1."""
        band, draw = np.arange(BANDS + 1), np.arange(DRAWN)
        bounds = -(-self.counts[:, None] * band // BANDS)  # rounded up: a single token is of the strongest band
        begins, sizes = bounds[:, :-1, None], np.diff(bounds, axis=1)[..., None]
        low, high = draw * sizes // DRAWN, (draw + 1) * sizes // DRAWN
        place = np.where(sizes > DRAWN, low + (drawn * (high - low)).astype(np.int64), draw)
        there = place < sizes
        at = (self.crow[:-1, None, None] + begins + place)[there]
        return self._table("quantile", (self.size, BANDS, DRAWN), np.nonzero(there), at)

    def _table(self, name: str, shape: tuple[int, ...], where: tuple[Array, ...], entries: Array) -> dict[str, Array]:
        """Tokens and values of some entries in a table whose other cells are -1 and NaN."""
        tokens, values = np.full(shape, -1, dtype=np.int32), np.full(shape, np.nan, dtype=np.float32)
        tokens[where], values[where] = self.token[entries], self.value[entries]
        return {name: tokens, f"{name}_value": values}
