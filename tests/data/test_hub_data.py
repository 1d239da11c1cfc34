"""A dataset that `datasets` loads, from a folder on this machine: streamed or not, shuffled or not, no network."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from scae.config import ConfigError, HubData
from scae.data import (
    corpus,
    corpus_fingerprint,
    documents,
    is_heldout,
    train_and_heldout,
    train_tokenizer,
    training_documents,
)

TOKENIZER = train_tokenizer(["document number one of many, " * 10], 280)
FILES, ROWS = 3, 20
TEXTS = [f"document {file} of row {row}" for file in range(FILES) for row in range(ROWS)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache-of-datasets")
    folder = tmp_path / "dataset"
    folder.mkdir()
    for file in range(FILES):
        rows = [json.dumps({"text": text}) for text in TEXTS[file * ROWS : (file + 1) * ROWS]]
        (folder / f"part-{file}.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def data(folder: Path, **changes: Any) -> HubData:
    values: dict[str, Any] = {
        "kind": "hub",
        "name": str(folder),
        "config": None,
        "split": "train",
        "field": "text",
        "revision": None,
        "streaming": True,
        "shuffle_buffer": 0,
        "context": 8,
        "packing": "packed",
        "prepend_bos": "auto",
        "separator": "eos",
        "attend_across": True,
        "heldout": 0.25,
        "max_tokens": 10_000,
        "exclude_tokens": [],
        "skip_first": 0,
    }
    return HubData(**(values | changes))


@pytest.mark.parametrize("streaming", [True, False])
def test_documents_come_in_order_or_drawn_from_a_buffer_the_same_every_time(folder: Path, streaming: bool) -> None:
    assert list(documents(data(folder, streaming=streaming))) == TEXTS
    shuffled = data(folder, streaming=streaming, shuffle_buffer=15)
    drawn = list(documents(shuffled))
    assert drawn != TEXTS
    assert sorted(drawn) == sorted(TEXTS)
    assert list(documents(shuffled)) == drawn


def test_a_stream_is_read_no_further_than_the_budget_and_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / f"part-{FILES}.jsonl").write_text("this is not JSON")
    small = data(folder, max_tokens=100)
    read: list[str] = []
    original = corpus._text_of

    def counted(row: dict[str, Any], field: str, where: str) -> str:
        read.append(where)
        return original(row, field, where)

    monkeypatch.setattr(corpus, "_text_of", counted)
    monkeypatch.setattr("scae.data.packing._BATCH_DOCUMENTS", 2)
    train, heldout = train_and_heldout(small, TOKENIZER, folder.parent / "cache")
    assert train.n_tokens <= 75
    assert heldout.n_tokens <= 25
    assert 0 < len(read) < ROWS
    first = len(read)
    again = train_and_heldout(small, TOKENIZER, folder.parent / "cache")
    assert len(read) == first
    assert again[0].tokens.equal(train.tokens)
    with pytest.raises(ConfigError, match=r"data\.name=.*dataset: row \d+ cannot be read"):
        list(documents(small))


def test_a_tokenizer_is_trained_on_what_the_budget_needs(folder: Path) -> None:
    every = [text for index, text in enumerate(TEXTS) if not is_heldout(index, 0.25)]
    assert list(training_documents(data(folder))) == every
    some = list(training_documents(data(folder, max_tokens=20)))
    assert some == every[: len(some)]
    assert 0 < len(some) < len(every) / 4
    assert list(training_documents(data(folder, max_tokens=20, streaming=False))) == every


def test_a_stream_needs_an_end(folder: Path) -> None:
    (problem,) = data(folder, max_tokens=None).problems("data")
    assert "data.max_tokens=null" in problem
    assert "data.streaming=false" in problem
    assert list(data(folder, max_tokens=None, streaming=False).problems("data")) == []


def test_what_decides_the_rows_names_them(folder: Path) -> None:
    changes: list[dict[str, Any]] = [{}, {"revision": "abc"}, {"streaming": False}, {"shuffle_buffer": 3}]
    prints = [corpus_fingerprint(data(folder, **change)) for change in changes]
    (folder / "part-0.jsonl").write_text(json.dumps({"text": "something else"}) + "\n")
    prints.append(corpus_fingerprint(data(folder)))
    assert len(set(prints)) == 5


def test_the_revision_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def load(*_: Any, **options: Any) -> list[dict[str, str]]:
        asked.update(options)
        return [{"text": "one"}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert list(documents(data(Path("someone/some"), revision="v1"))) == ["one"]
    assert asked == {"split": "train", "revision": "v1", "streaming": True}
