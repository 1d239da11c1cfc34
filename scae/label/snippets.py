"""Short pieces of the analysed text, as a reader of prompts sees them.

A snippet is what stands around one token, up to 20 tokens before it and 11 behind, 32 as in delphi: within its window
and its document, and text alone (no BOS, separator or padding). An important token is marked <<so>>; neighbours share
the marks. As in delphi, important is what exceeds 0.3 of the largest activation in the snippet.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

BEFORE, AFTER = 20, 11
IMPORTANT = 0.3
STRENGTHS_SHOWN = 10
"""Tokens of one snippet whose strengths are listed."""


@dataclass(frozen=True, kw_only=True)
class Snippet:
    """texts: of its tokens; values: the feature's activation at each, 0 where it is silent."""

    texts: tuple[str, ...]
    values: tuple[float, ...]

    def important(self) -> list[int]:
        """Which of its tokens are marked; none where the feature is silent."""
        bar = IMPORTANT * max(self.values)
        return [i for i, value in enumerate(self.values) if value > bar]

    def marked(self, which: Collection[int]) -> str:
        """On one line, those tokens between << and >>."""
        parts = []
        for i, text in enumerate(self.texts):
            opens = "<<" if i in which and i - 1 not in which else ""
            closes = ">>" if i in which and i + 1 not in which else ""
            parts.append(f"{opens}{_on_one_line(text)}{closes}")
        return "".join(parts)

    def strengths(self, largest: float) -> str:
        """Its most important tokens as they stand, with activations in tenths of `largest`: ("er", 9), (" than", 4)."""
        strongest = sorted(self.important(), key=lambda i: -self.values[i])[:STRENGTHS_SHOWN]
        shown = sorted(strongest)
        return ", ".join(f'("{_on_one_line(self.texts[i])}", {_tenths(self.values[i], largest)})' for i in shown)


class Text:
    """The analysed tokens, and what stands around each.

    ids, documents, windows [n]: of every position; live [n]: whether it is text; vocabulary: how each id reads.
    """

    def __init__(
        self,
        *,
        ids: np.ndarray,
        documents: np.ndarray,
        windows: np.ndarray,
        live: np.ndarray,
        vocabulary: Sequence[str],
    ) -> None:
        self.ids, self.documents, self.windows, self.live = ids, documents, windows, live
        self.vocabulary = vocabulary
        self.positions = np.flatnonzero(live)
        """[n_live] of all text."""

    def around(self, token: int) -> tuple[int, int]:
        """The snippet of a token: from which position to which, the last one excluded."""
        first, last = max(0, token - BEFORE), min(len(self.ids), token + AFTER + 1)
        same = (
            self.live[first:last]
            & (self.windows[first:last] == self.windows[token])
            & (self.documents[first:last] == self.documents[token])
        )
        borders = np.flatnonzero(~same) + first
        before, behind = borders[borders < token], borders[borders > token]
        return int(before[-1]) + 1 if len(before) else first, int(behind[0]) if len(behind) else last


@dataclass(frozen=True, kw_only=True)
class Firing:
    """Where one feature fires in a text, and how strongly. tokens [nnz], ascending; values [nnz]."""

    text: Text
    tokens: np.ndarray
    values: np.ndarray

    def snippet(self, token: int) -> Snippet:
        first, last = self.text.around(token)
        values = np.zeros(last - first)
        begin, end = np.searchsorted(self.tokens, (first, last))
        values[self.tokens[begin:end] - first] = self.values[begin:end]
        texts = (self.text.vocabulary[i] for i in self.text.ids[first:last])
        return Snippet(texts=tuple(texts), values=tuple(values.tolist()))

    def silent(self, rng: np.random.Generator, count: int) -> list[Snippet]:
        """Snippets of random tokens in which the feature does not fire at all, none overlapping another; fewer than
        `count` where it fires almost everywhere."""
        found: list[Snippet] = []
        taken: list[tuple[int, int]] = []
        positions = self.text.positions
        for token in rng.choice(positions, min(len(positions), 50 * count), replace=False).tolist():
            if len(found) == count:
                break
            first, last = self.text.around(token)
            begin, end = np.searchsorted(self.tokens, (first, last))
            if begin == end and all(last <= start or stop <= first for start, stop in taken):
                taken.append((first, last))
                found.append(self.snippet(token))
        return found


def _on_one_line(text: str) -> str:
    return text.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")


def _tenths(value: float, largest: float) -> int:
    return int(10 * value / largest) if largest > 0 else 0
