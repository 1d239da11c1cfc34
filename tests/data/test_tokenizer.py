"""The embedded model's tokenizer: nothing is lost, nothing depends on chance, ids where neighbours expect them."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from scae.data import tokenizer_fingerprint, train_tokenizer
from scae.data.tokenizer import LONGEST_WORD, _without_giants

TEXTS = ["def encode(self, text):\n    return [token for token in text.split()]\n", "the cat sat on the mat. " * 20]
TOKENIZER = train_tokenizer(TEXTS, 300)


@settings(deadline=None, max_examples=100)
@given(st.text())
def test_every_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@pytest.mark.parametrize("text", [" a . b , c ! n't", "\x00\ufeff\r\n\t  ", "ünïcödé 漢字 🙂", "<pad> <bos><eos>"])
def test_awkward_texts_come_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_special_tokens_have_fixed_ids_and_are_not_added() -> None:
    assert (TOKENIZER.pad_token_id, TOKENIZER.bos_token_id, TOKENIZER.eos_token_id) == (0, 1, 2)
    assert not {0, 1, 2} & set(TOKENIZER.encode("the cat"))
    assert len(TOKENIZER) == 300


def test_training_twice_gives_the_same_tokenizer_and_other_texts_another() -> None:
    assert tokenizer_fingerprint(train_tokenizer(TEXTS, 300)) == tokenizer_fingerprint(TOKENIZER)
    assert tokenizer_fingerprint(train_tokenizer(TEXTS[:1], 300)) != tokenizer_fingerprint(TOKENIZER)


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer_fingerprint(loaded) == tokenizer_fingerprint(TOKENIZER)
    assert loaded.bos_token_id == 1
    assert loaded.decode(loaded.encode("a . b n't 漢")) == "a . b n't 漢"


def test_a_small_corpus_has_fewer_merges() -> None:
    assert len(train_tokenizer(["ab ab"], 1_000)) < 300


def test_no_room_for_the_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size=258: allowed: at least 259"):
        train_tokenizer(TEXTS, 258)


@pytest.mark.parametrize("part", ["a", " ", "7", "_-", "語", "ab"])
def test_a_giant_word_is_learned_from_in_part(part: str, caplog: pytest.LogCaptureFixture) -> None:
    """The trainer's time grows with the square of a word; the whole giant is still encoded, and comes back."""
    caplog.set_level("INFO", "scae.data.tokenizer")
    giant = part * 30_000
    tokenizer = train_tokenizer([*TEXTS, giant], 300)
    same = train_tokenizer([*TEXTS, giant[:LONGEST_WORD]], 300)
    assert tokenizer_fingerprint(tokenizer) == tokenizer_fingerprint(same)
    said = [record.getMessage() for record in caplog.records if "longer words" in record.getMessage()]
    assert said == ["the tokenizer is trained on the first 1,000 characters of 1 longer words"]
    assert tokenizer.decode(tokenizer.encode(giant)) == giant


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(max_size=LONGEST_WORD)))
def test_ordinary_text_is_learned_from_as_it_is(texts: list[str]) -> None:
    assert list(_without_giants(texts)) == texts


def test_a_long_line_of_words_is_no_giant() -> None:
    texts = ["the cat sat on the mat, 12 times. " * 3000]
    assert list(_without_giants(texts)) == texts
