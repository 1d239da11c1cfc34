"""The activations of one site in one pass on disk, both ways: token -> its features, feature -> its tokens.

What runs have found comes in parts, token by token. The first way is these parts one after the other. For the second
all that is held is a run of features whose entries are at most `ENTRIES` (or one feature): the first way is read once
for every such run, and what belongs to it is sorted,

    feature ascending, value descending, token ascending

So memory does not grow with the text, and reading does with (entries)^2 / ENTRIES alone.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scae.analysis.streamed import Array, Streamed, write_streamed

ENTRIES = 1 << 22  # held at a time, about 60 bytes each


class Part(NamedTuple):
    """The activations > 0 of a run of tokens, a token's features ascending. counts: `[token]`; feature, value:
    `[entry]`."""

    counts: Array
    feature: Array
    value: Array


Parts = Callable[[], Iterable[Part]]
"""The parts of a text in order; read twice."""


def write_codes(path: Path, parts: Parts, *, n_tokens: int, n_features: int, entries: int = ENTRIES) -> Path:
    """Write `codes/<pass>/<site>.safetensors` (`scae.report.analysis_files`)."""
    counts, of_features = [], np.zeros(n_features, dtype=np.int64)
    for part in parts():
        counts.append(part.counts)
        of_features += np.bincount(part.feature, minlength=n_features)
    crow, feature_crow = pointers(np.concatenate(counts)), pointers(of_features)
    if len(crow) != n_tokens + 1:
        raise ValueError(f"{path}: codes of {len(crow) - 1} tokens, {n_tokens} are needed")
    n_entries = int(crow[-1])

    def fill(file: Streamed) -> None:
        file.put("crow", 0, crow)
        file.put("feature_crow", 0, feature_crow)
        at = 0
        for part in parts():
            file.put("feature", at, part.feature)
            file.put("value", at, part.value)
            at += len(part.feature)
        for first, last in blocks(feature_crow, entries):
            _transpose(file, crow, feature_crow, first, last, entries)

    shapes = {"crow": ("I64", n_tokens + 1), "feature_crow": ("I64", n_features + 1)}
    shapes |= {"feature": ("I32", n_entries), "value": ("F32", n_entries)}
    shapes |= {"token": ("I32", n_entries), "by_feature": ("F32", n_entries)}
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_streamed(path, shapes, fill)


def pointers(counts: Array) -> Array:
    """Where each row begins, from the number of entries of each."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)])


def blocks(crow: Array, entries: int) -> Iterator[tuple[int, int]]:
    """Runs of rows of at most so many entries together, of one row at least."""
    first, n_rows = 0, len(crow) - 1
    while first < n_rows:
        last = max(first + 1, int(np.searchsorted(crow, crow[first] + entries, side="right")) - 1)
        yield first, last
        first = last


def _transpose(file: Streamed, crow: Array, feature_crow: Array, first: int, last: int, entries: int) -> None:
    """The tokens of the features `first` to `last - 1`."""
    keys: list[Array] = []
    tokens: list[Array] = []
    for start, stop in blocks(crow, entries):
        feature = file.get("feature", int(crow[start]), int(crow[stop]))
        inside = (feature >= first) & (feature < last)
        value = file.get("value", int(crow[start]), int(crow[stop]))[inside]
        row = np.repeat(np.arange(start, stop, dtype=np.int32), np.diff(crow[start : stop + 1]))
        tokens.append(row[inside])
        keys.append(_key(feature[inside] - first, value))
    key = np.concatenate(keys)
    order = np.argsort(key, kind="stable")  # tokens ascend before, and so among equal values behind
    at = int(feature_crow[first])
    file.put("token", at, np.concatenate(tokens)[order])
    file.put("by_feature", at, (~key[order].astype(np.uint32)).view(np.float32))


def _key(feature: Array, value: Array) -> Array:
    """A number that is larger for a later feature, then for a smaller value: bits of floats > 0 rise as they do."""
    bits = np.ascontiguousarray(value, dtype=np.float32).view(np.uint32)
    return (feature.astype(np.uint64) << np.uint64(32)) | (~bits).astype(np.uint64)
