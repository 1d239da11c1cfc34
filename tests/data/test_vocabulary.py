"""How tokens read inside text."""

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from scae.data import token_texts, train_tokenizer


def test_tokens_of_bytes_keep_their_space_and_name_what_is_no_text() -> None:
    tokenizer = train_tokenizer(["one two two two é é é"] * 9, 300)
    texts = token_texts(tokenizer, len(tokenizer))
    assert texts[:3] == ["<pad>", "<bos>", "<eos>"]
    ids = tokenizer(" two é\n", add_special_tokens=False)["input_ids"]
    assert "".join(texts[number] for number in ids) == " two é\n"
    assert " two" in texts
    (half,) = {number for number in range(len(tokenizer)) if tokenizer.convert_ids_to_tokens(number) == "Ã"}
    assert texts[half] == "\\xc3", "the first byte of é alone"
    assert len(set(texts)) == len(texts)


@pytest.fixture
def sentencepiece() -> PreTrainedTokenizerFast:
    vocabulary = {"<unk>": 0, "<s>": 1, "<0x0A>": 2, "<0xC3>": 3, "▁the": 4, "re": 5, "▁": 6}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")


def test_pieces_and_bytes(sentencepiece: PreTrainedTokenizerFast) -> None:
    assert token_texts(sentencepiece, 7) == ["<unk>", "<s>", "\n", "\\xc3", " the", "re", " "]


def test_a_vocabulary_larger_than_its_tokenizer(sentencepiece: PreTrainedTokenizerFast) -> None:
    assert token_texts(sentencepiece, 9)[7:] == ["<7>", "<8>"]
