"""Tokens and first positions that do not count: no loss, no metric and no score of a connection sees them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_token_cache import TOKENIZER, make

from scae.config import ConfigError, HubData, TextData
from scae.data import TokenWindows, train_and_heldout


def windows(tokens: list[list[int]], lengths: list[int], **changes: Any) -> TokenWindows:
    return TokenWindows(
        tokens=torch.tensor(tokens, dtype=torch.int32),
        lengths=torch.tensor(lengths, dtype=torch.int32),
        bos=True,
        separator=9,
        **changes,
    )


@settings(deadline=None, max_examples=50)
@given(
    tokens=st.lists(st.lists(st.integers(1, 9), min_size=6, max_size=6), min_size=1, max_size=5),
    excluded=st.sets(st.integers(1, 9), max_size=4),
    skipped=st.integers(0, 4),
    starts=st.booleans(),
)
def test_a_position_counts_where_none_of_the_reasons_holds(
    tokens: list[list[int]], excluded: set[int], skipped: int, starts: bool
) -> None:
    lengths = [6 - number % 3 for number in range(len(tokens))]
    begins = torch.tensor([[token % 2 == 0 for token in row] for row in tokens]) if starts else None
    every = windows(tokens, lengths, starts=begins)
    left = every.leaving_out(sorted(excluded), skipped)
    expected = []
    for row, length in zip(tokens, lengths, strict=True):
        live = [skipped < at < length and token not in excluded | {9} for at, token in enumerate(row)]
        if any(live):
            expected.append((row, live))
    assert left.tokens.tolist() == [row for row, _ in expected]
    assert left.live().tolist() == [live for _, live in expected]
    if len(left):
        batch = left.batch(range(len(left)))
        assert batch.live.equal(left.live())
        assert (batch.documents is None) == (not starts)
    assert every.leaving_out([], 0).live().equal(every.live()[every.live().any(1)])


def test_the_windows_of_a_corpus_leave_them_out_and_an_empty_rest_is_refused(tmp_path: Path) -> None:
    space = TOKENIZER.encode(" ")[0]
    text = tmp_path / "text"
    plain = train_and_heldout(make(text), TOKENIZER, tmp_path / "cache")[0]
    left = train_and_heldout(make(text, exclude_tokens=[space], skip_first=1), TOKENIZER, tmp_path / "cache")[0]
    assert left.tokens.equal(plain.tokens)
    here = left.live()
    assert (plain.tokens[plain.live()] == space).any()
    assert here.equal(plain.live() & (plain.tokens != space) & (torch.arange(8) > 1))
    with pytest.raises(ConfigError, match=r"data\.exclude_tokens=\[3, 99999\]: the tokenizer has \d+ tokens"):
        train_and_heldout(make(text, exclude_tokens=[3, 99999]), TOKENIZER, tmp_path / "cache")
    everything = list(range(len(TOKENIZER)))
    with pytest.raises(ConfigError, match=r"no position is left; leave out less"):
        train_and_heldout(make(text, exclude_tokens=everything), TOKENIZER, tmp_path / "cache")


def test_ids_are_sorted_and_each_is_there_once(tmp_path: Path) -> None:
    assert make(tmp_path / "text", exclude_tokens=[5, 2]).exclude_tokens == [2, 5]
    for wrong in ([2, 2], [-1], ["a"]):
        with pytest.raises(ValueError, match="exclude_tokens"):
            make(tmp_path / "text", exclude_tokens=wrong)
    (problem,) = make(tmp_path / "text", skip_first=6).problems("data")
    assert "data.skip_first=6" in problem
    assert "0 to 5" in problem
    assert list(make(tmp_path / "text", skip_first=5).problems("data")) == []
    assert TextData.model_fields.keys() & {"exclude_tokens", "skip_first"} <= HubData.model_fields.keys()
