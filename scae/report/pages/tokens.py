"""The text that feature pages show: the windows that some example lies in, and the words of these, renumbered.

windows     those used, in order: position p of the r-th of them has the number r * context + p
vocabulary  the tokens that occur, in order of their ids
"""

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np

from scae.report.analysis_files import ENDS, Analysis, Array

LIST_OF_EXAMPLES = ("top", "quantile")
LIST_OF_WORDS = ("promoted", "suppressed")


class Texts:
    """What of the text of an analysis its pages need."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.context = analysis.context_size
        shown = _used(analysis, LIST_OF_EXAMPLES)
        clustered = [cluster.get("examples", []) for cluster in analysis.summary.get("clusters") or []]
        shown.append(np.asarray([token for tokens in clustered for token in tokens], dtype=np.int64))
        self.windows = _distinct(tokens // self.context for tokens in shown)
        ids = analysis.tokens["id"][self._positions]
        self.vocabulary = _distinct([ids, *_used(analysis, LIST_OF_WORDS), *_ends(analysis)])

    @property
    def _positions(self) -> Array:
        """Of each position kept, its number in the whole text."""
        return (self.windows[:, None] * self.context + np.arange(self.context)).ravel()

    def place(self, tokens: Array) -> Array:
        """From numbers in the whole text to numbers here; -1 stays."""
        window = np.searchsorted(self.windows, tokens // self.context)
        return np.where(tokens < 0, -1, window * self.context + tokens % self.context)

    def word(self, ids: Array) -> Array:
        """From ids of the whole vocabulary to ids here; -1 stays."""
        return np.where(ids < 0, -1, np.searchsorted(self.vocabulary, ids))

    @cached_property
    def data(self) -> dict[str, Any]:
        """For the page. segments: [where a document, or a window inside it, begins; its number]."""
        kept = self._positions
        tokens = self.analysis.tokens
        document, texts = tokens["document"][kept], self.analysis.vocabulary
        begins = np.ones(len(kept), dtype=bool)
        begins[1:] = document[1:] != document[:-1]
        begins[:: self.context] = True
        starts = np.flatnonzero(begins)
        return {
            "context": self.context,
            "vocabulary": [texts[number] if number < len(texts) else f"<{number}>" for number in self.vocabulary],
            "ids": self.word(tokens["id"][kept]).tolist(),
            "no_text": np.flatnonzero(~tokens["live"][kept]).tolist(),
            "segments": [starts.tolist(), document[starts].tolist()],
        }


def _used(analysis: Analysis, names: Iterable[str]) -> list[Array]:
    """What these lists of all features hold, each number once."""
    tables = [analysis.features(site) for site in analysis.sites]
    return [np.unique(table[name].ravel()) for table in tables for name in names]


def _ends(analysis: Analysis) -> Iterator[Array]:
    """The tokens that features are connected to, where the embedding or the unembedding is a site."""
    ends = [number for number, site in enumerate(analysis.site_names) if site in ENDS]
    for site in analysis.sites if ends else ():
        table = analysis.features(site)
        for side in ("inputs", "outputs"):
            if f"{side}_site" in table:
                yield np.unique(table[f"{side}_feature"][np.isin(table[f"{side}_site"], ends)])


def _distinct(arrays: Iterable[Array]) -> Array:
    """All numbers in them, sorted, each once, without what is missing (below 0)."""
    found = np.unique(np.concatenate([np.asarray(array, dtype=np.int64).ravel() for array in arrays]))
    return found[found >= 0]
