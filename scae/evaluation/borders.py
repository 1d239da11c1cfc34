"""Which token between two documents the model predicts text best with, measured where it matters.

    BOS  end of document a  [separator]  start of document b       one window a border, the same text for each candidate

In windows as they are packed most text is far from a border, and a difference of a hundredth of a nat drowns in
thousands of tokens that know of none. Here every window has a border, the first near its start, the last near its end.
Scored is what is common to all candidates: each token of a document given at least one before it.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import torch

from scae.data import Batch
from scae.evaluation.clean import clean_ce
from scae.lm import LanguageModel

Tokens = Sequence[int]


def ce_at_borders(
    lm: LanguageModel,
    documents: Sequence[Tokens],
    separator: int | None,
    *,
    context: int,
    attend_across: bool,
    batch_size: int,
) -> float:
    """Cross-entropy of the model around the borders of successive documents, in nats a token."""
    bos = [lm.tokenizer.bos_token_id] * lm.bos
    between = [] if separator is None else [separator]
    windows = [(bos + end, between + start) for end, start in _around_borders(documents, context - len(bos) - 1)]
    batches = (windows[first : first + batch_size] for first in range(0, len(windows), batch_size))
    traces = (
        lm.trace(*_batch(some, len(bos), len(between), attend_across).to(lm.device), patterns=False) for some in batches
    )
    return clean_ce(lm, traces)


def _around_borders(documents: Sequence[Tokens], room: int) -> Iterator[tuple[list[int], list[int]]]:
    """The end of each document and the start of the next, together at most `room` tokens."""
    count = len(documents) - 1
    for number, (before, after) in enumerate(pairwise(documents)):
        end = max(1, room * (number + 1) // (count + 1))
        yield list(before[-end:]), list(after[: room - end])


def _batch(windows: Iterable[tuple[list[int], list[int]]], n_bos: int, n_between: int, attend_across: bool) -> Batch:
    """Windows padded at the end, which no text before it can see.

    The last token before a border is not live, so that no candidate is asked what comes after the border.
    """
    rows = [(len(first), first + second) for first, second in windows]
    width = max(len(tokens) for _, tokens in rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.int64)
    live = torch.zeros(len(rows), width, dtype=torch.bool)
    documents = torch.ones(len(rows), width, dtype=torch.int64)
    documents[:, :n_bos] = 0
    for row, (border, window) in enumerate(rows):
        tokens[row, : len(window)] = torch.tensor(window)
        live[row, n_bos : border - 1] = True
        live[row, border + n_between : len(window)] = True
        documents[row, border:] = 2
    return Batch(tokens=tokens, live=live, documents=None if attend_across else documents)
