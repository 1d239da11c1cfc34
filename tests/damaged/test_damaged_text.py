"""Damaged and strange texts, and the token windows made of them: those are repaired, with a warning."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damage import ANY, surprise

from scae.config import ConfigError, TextData
from scae.data import train_and_heldout, train_tokenizer
from scae.data.corpus import documents
from scae.data.corpus import fingerprint as corpus_fingerprint


def text(tmp_path: Path, **changes: Any) -> TextData:
    settings = {
        "kind": "text",
        "path": str(tmp_path),
        "field": "text",
        "context": 8,
        "packing": "packed",
        "prepend_bos": "auto",
        "separator": "eos",
        "attend_across": True,
        "heldout": 0.2,
        "max_tokens": None,
        "exclude_tokens": [],
        "skip_first": 0,
    }
    return TextData.model_validate(settings | changes)


def parquet(file: Path) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    write_table(pyarrow.table({"text": [f"a text of row {row}" for row in range(40)]}), file)


TEXTS: dict[str, bytes] = {
    "bom.txt": b"\xef\xbb\xbfsome text",
    "utf-16.txt": "some text".encode("utf-16"),
    "nul.txt": b"a\0b\0\0c",
    "controls.txt": bytes(range(1, 32)),
    "surrogate.txt": "\ud800".encode("utf-8", "surrogatepass"),
    "one line.txt": b"word " * 100_000,
    "one letter.txt": b"a" * 60_000,
    "spaces.txt": b" \n\t" * 100,
    "gzip.txt": gzip.compress(b"some text" * 100),
    "gzip.jsonl": gzip.compress(b'{"text": "a"}\n' * 100),
    "gzip.parquet": gzip.compress(b"some text" * 100),
    "surrogate.jsonl": b'{"text": "\\ud800"}',
    "pair.jsonl": b'{"text": "\\ud83d\\ude00"}',
    "number.jsonl": b'{"text": 1}',
    "null.jsonl": b'{"text": null}\n{"text": "a"}',
    "other field.jsonl": b'{"content": "a"}',
    "no fields.jsonl": b"{}",
    "deep.jsonl": b'{"text": ' + b"[" * 100_000,
    "deep object.jsonl": b'{"a":' * 100_000,
    "digits.jsonl": b'{"text": ' + b"1" * 10_000 + b"}",
    "giant.jsonl": json.dumps({"text": "many words " * 50_000}).encode(),
    "nan.jsonl": b'{"text": NaN}',
    "twice.jsonl": b'{"text": "a", "text": 2}',
    "many fields.jsonl": json.dumps({f"field {number}": "a" for number in range(2_000)}).encode(),
    "long line.jsonl": b"[" + b'"a",' * 5_000 + b'"a"]',
    "blank.jsonl": b"\n\n  \n",
    "array.jsonl": b'[{"text": "a"}]',
}


def read_corpus(tmp_path: Path) -> Callable[[], object]:
    def read() -> None:
        data = text(tmp_path)
        corpus_fingerprint(data)
        list(documents(data))

    return read


@pytest.mark.parametrize("name", TEXTS)
def test_a_strange_text(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(TEXTS[name])
    assert surprise(read_corpus(tmp_path), file, f"data.path={tmp_path}") is None


@pytest.mark.parametrize("damage", ANY)
@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.txt"])
def test_a_damaged_text(tmp_path: Path, name: str, damage: str) -> None:
    file = tmp_path / name
    if name.endswith("parquet"):
        parquet(file)
    else:
        file.write_text("".join(json.dumps({"text": f"line {line}"}) + "\n" for line in range(40)))
    ANY[damage](file)
    assert surprise(read_corpus(tmp_path), file, f"data.path={tmp_path}") is None


def test_a_text_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.txt"
    file.write_text("a")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read everything
    with pytest.raises(ConfigError, match=r"a\.txt cannot be read: permission denied"):
        read_corpus(tmp_path)()


def test_a_path_that_no_file_can_have(tmp_path: Path) -> None:
    for path in ("x" * 5_000, "\0", "a\0b", "*\0", "[", "**", "~nobody-here/x", ""):
        data = text(tmp_path, path=path) if path else text(tmp_path, path=str(tmp_path / "none"))
        assert surprise(lambda data=data: list(documents(data)), tmp_path, "data.path=") is None, path[:20]


@pytest.mark.parametrize("damage", ANY)
@pytest.mark.parametrize("name", ["artifact.json", "train.safetensors", "heldout.safetensors"])
def test_damaged_tokens(tmp_path: Path, name: str, damage: str) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.jsonl").write_text('{"text": "some words to read"}\n' * 40)
    data = text(tmp_path / "text")
    tokenizer = train_tokenizer(["some words"], 260)
    train_and_heldout(data, tokenizer, tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob(f"tokens-*/{name}")
    ANY[damage](file)
    assert surprise(lambda: train_and_heldout(data, tokenizer, tmp_path / "cache"), file) is None
