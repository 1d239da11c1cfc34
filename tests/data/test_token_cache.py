"""The corpus tokenised once: both sides, the bound on them, the second call, the process that waits."""

import errno
import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from scae.artifacts import locked
from scae.config import ConfigError, StdlibData, TextData
from scae.core.failures import ArtifactError
from scae.data import TokenWindows, cache, documents, train_and_heldout, train_tokenizer

TOKENIZER = train_tokenizer(["document number one of many, " * 10], 280)
WINDOWS: dict[str, Any] = {
    "context": 8,
    "packing": "packed",
    "prepend_bos": "auto",
    "separator": "eos",
    "attend_across": True,
    "heldout": 0.25,
    "max_tokens": None,
    "exclude_tokens": [],
    "skip_first": 0,
}


def make(folder: Path, count: int = 12, **changes: Any) -> TextData:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / f"{number:02}.txt").write_text(f"document {chr(97 + number)} " * 12)
    return TextData(kind="text", path=str(folder), field="text", **(WINDOWS | changes))


def test_no_document_is_on_both_sides(tmp_path: Path) -> None:
    train, heldout = train_and_heldout(make(tmp_path / "text"), TOKENIZER, tmp_path / "cache")
    letters = [
        {word for word in TOKENIZER.decode(side.tokens.flatten(), skip_special_tokens=True).split() if len(word) == 1}
        for side in (train, heldout)
    ]
    assert letters == [set("abcefgijk"), set("dhl")]


def test_the_second_call_reads_and_does_not_tokenise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make(tmp_path / "text")
    first = train_and_heldout(data, TOKENIZER, tmp_path / "cache")
    monkeypatch.setattr(cache, "WindowBuilder", None)
    second = train_and_heldout(data, TOKENIZER, tmp_path / "cache")
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(first, second, strict=True))


def test_the_artifact_says_what_it_was_made_from(tmp_path: Path) -> None:
    train, heldout = train_and_heldout(make(tmp_path / "text"), TOKENIZER, tmp_path / "cache")
    (folder,) = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert sorted(path.name for path in folder.iterdir()) == [
        "artifact.json",
        "heldout.safetensors",
        "train.safetensors",
    ]
    note = json.loads((folder / "artifact.json").read_text())
    assert note["train"] == {"documents": 9, "windows": len(train), "tokens": 8 * len(train)}
    assert note["heldout"]["documents"] == 3
    assert note["heldout"]["windows"] == len(heldout)
    assert note["made_from"]["data"]["context"] == 8


@pytest.mark.parametrize("change", ["data", "text", "tokenizer"])
def test_whatever_changes_the_tokens_makes_another_artifact(tmp_path: Path, change: str) -> None:
    data, tokenizer = make(tmp_path / "text"), TOKENIZER
    train_and_heldout(data, tokenizer, tmp_path / "cache")
    if change == "data":
        data = make(tmp_path / "text", context=16)
    elif change == "text":
        (tmp_path / "text" / "00.txt").write_text("something else " * 12)
    else:
        tokenizer = train_tokenizer(["other"], 280)
    train_and_heldout(data, tokenizer, tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("tokens-*/artifact.json"))) == 2


def test_max_tokens_is_shared_by_the_sides(tmp_path: Path) -> None:
    train, heldout = train_and_heldout(make(tmp_path / "text", max_tokens=160), TOKENIZER, tmp_path / "cache")
    assert train.n_tokens == 120
    assert heldout.n_tokens == 40


def test_too_few_documents_to_hold_one_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.heldout=0\.25: of 3 documents none is left for evaluation"):
        train_and_heldout(make(tmp_path / "text", count=3), TOKENIZER, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*/artifact.json"))


def test_what_a_killed_run_left_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make(tmp_path / "text")
    with monkeypatch.context() as patch:
        patch.setattr(cache, "json", None)  # dies after the tensors, before the note
        with pytest.raises(AttributeError):
            cache._make(data, TOKENIZER, tmp_path / "tokens-x", {})
    assert not (tmp_path / "tokens-x").exists()
    cache._make(data, TOKENIZER, tmp_path / "tokens-x", {})
    assert (tmp_path / "tokens-x" / "artifact.json").is_file()


def test_waiting_for_another_process_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    taken = threading.Event()

    def hold() -> None:
        with FileLock(tmp_path / "x.lock"):
            taken.set()
            time.sleep(0.2)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    with locked(tmp_path / "x.lock", "tokens-1"):
        pass
    thread.join()
    assert [record.message.split(" (")[0] for record in caplog.records] == [
        "waiting for the process that makes tokens-1"
    ]


def test_the_standard_library(tmp_path: Path) -> None:
    data = StdlibData(kind="stdlib", **(WINDOWS | {"context": 64, "heldout": 0.1, "max_tokens": 20_000}))
    texts = (text for text, _ in zip(documents(data), range(20), strict=False))
    train, heldout = train_and_heldout(data, train_tokenizer(texts, 400), tmp_path)
    assert len(train) == 18_000 // 64
    assert len(heldout) == 2_000 // 64


@pytest.mark.parametrize("damage", ["no side", "half a side", "empty note", "no note"])
def test_a_damaged_folder_is_made_again_with_one_warning(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = make(tmp_path / "text")
    first = [side.tokens.clone() for side in train_and_heldout(data, TOKENIZER, tmp_path / "cache")]
    (folder,) = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    side, note = folder / "heldout.safetensors", folder / "artifact.json"
    if damage == "half a side":
        side.write_bytes(side.read_bytes()[:200])
    elif damage == "empty note":
        note.write_text("")
    else:
        (side if damage == "no side" else note).unlink()
    again = train_and_heldout(data, TOKENIZER, tmp_path / "cache")
    assert all(torch.equal(tokens, side.tokens) for tokens, side in zip(first, again, strict=True))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert f"{folder} is damaged and is made again" in warnings[0]
    train_and_heldout(data, TOKENIZER, tmp_path / "cache")
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


def test_a_full_disk_leaves_no_half_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(TokenWindows, "save", full)
    with pytest.raises(ArtifactError, match=r"tokens-\w+ cannot be written: no space is left"):
        train_and_heldout(make(tmp_path / "text"), TOKENIZER, tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_where_the_text_lies_does_not_matter(tmp_path: Path) -> None:
    for folder in ("here", "there"):
        train_and_heldout(make(tmp_path / folder), TOKENIZER, tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("tokens-*/artifact.json"))) == 1
