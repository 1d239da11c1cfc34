"""Text that a tokenizer cannot say: counted while it is tokenised, named in the log whenever the windows are opened."""

import logging
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from scae.config import TextData
from scae.data import cache, train_and_heldout


def characters(known: str) -> PreTrainedTokenizerFast:
    """One token a character, `<unk>` for every other."""
    inner = Tokenizer(models.WordLevel({"<unk>": 0} | {c: i for i, c in enumerate(known, 1)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


def corpus(folder: Path, text: str) -> TextData:
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.txt").write_text(text)
    return TextData(
        kind="text",
        path=str(folder),
        field="text",
        context=8,
        packing="packed",
        prepend_bos="auto",
        separator="none",
        attend_across=True,
        heldout=0.25,
        max_tokens=None,
        exclude_tokens=[],
        skip_first=0,
    )


def test_unknown_tokens_are_named_whenever_the_windows_are_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, tokenizer = corpus(tmp_path / "text", "abab ab\nab é\nabab ab\n"), characters("ab ")
    for opened in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            train_and_heldout(data, tokenizer, tmp_path / "cache")
        assert [record.message for record in caplog.records] == [
            "the tokenizer turns 19.0 % of the training tokens into its unknown token, most often '\\n', 'é'"
        ], opened
        monkeypatch.setattr(cache, "WindowBuilder", None)  # the second time nothing is tokenised


@pytest.mark.parametrize("text", ["ab " * 40 + "é", "ab ab ab"])
def test_few_unknown_tokens_are_no_news(tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str) -> None:
    with caplog.at_level(logging.WARNING):
        train_and_heldout(corpus(tmp_path / "text", text), characters("ab "), tmp_path / "cache")
    assert not caplog.records


def test_a_tokenizer_without_an_unknown_token(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = characters("ab ")
    tokenizer.unk_token = None
    with caplog.at_level(logging.WARNING):
        train_and_heldout(corpus(tmp_path / "text", "é ab ab ab"), tokenizer, tmp_path / "cache")
    assert not caplog.records
