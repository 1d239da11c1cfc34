"""The embedded model's tokenizer: nothing is lost, nothing depends on chance, ids where neighbours expect them."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from scae.data import tokenizer_fingerprint, train_tokenizer

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
