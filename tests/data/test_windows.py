"""Windows: no token lost, no padding or BOS live, and files that are checked when read."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from scae.config import ConfigError
from scae.data import TokenWindows, build_windows, packing, train_tokenizer

TOKENIZER = train_tokenizer(["the cat sat on the mat and the dog sat on the log. " * 5], 280)
NO_SPECIALS = train_tokenizer(["the cat sat on the mat"], 280)
for name in ("bos_token", "eos_token", "pad_token"):
    setattr(NO_SPECIALS, name, None)
PAD, BOS, EOS = 0, 1, 2
TEXTS = ["the cat sat on the mat", "x", "", "the dog sat on the log, " * 4, "end"]


def build(texts: list[str], **changes: Any) -> TokenWindows:
    settings = {
        "context": 8,
        "packing": "packed",
        "prepend_bos": "auto",
        "separator": "eos",
        "attend_across": True,
        "max_tokens": None,
        "tokenizer": TOKENIZER,
    }
    return build_windows(texts, **(settings | changes))


SEPARATORS: dict[str, list[int]] = {"none": [], "bos": [BOS], "eos": [EOS]}


def joined(texts: list[str], separator: str = "eos") -> list[tuple[int, int]]:
    """The stream of a packed corpus, each token with the number of its document, built the slow way."""
    stream: list[tuple[int, int]] = []
    for number, ids in enumerate(filter(None, map(TOKENIZER.encode, texts))):
        stream += [(token, number) for token in ([*SEPARATORS[separator], *ids] if stream else ids)]
    return stream


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.text("ab cat\n漢", max_size=30), min_size=1, max_size=12),
    st.integers(4, 9),
    st.booleans(),
    st.integers(1, 4),
    st.sampled_from(list(SEPARATORS)),
)
def test_packing_loses_no_token(texts: list[str], context: int, bos: bool, batch: int, separator: str) -> None:
    stream, width = joined(texts, separator), context - bos
    asked: dict[str, Any] = {"context": context, "prepend_bos": bos, "separator": separator, "attend_across": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_BATCH_DOCUMENTS", batch)  # documents tokenised together change nothing
        if len(stream) < width:
            with pytest.raises(ConfigError):
                build(texts, **asked)
            return
        windows = build(texts, **asked)
    whole = stream[: len(stream) // width * width]
    assert windows.tokens[:, int(bos) :].flatten().tolist() == [token for token, _ in whole]
    documents = windows.batch(range(len(windows))).documents
    assert documents is not None
    inside = torch.tensor([number for _, number in whole]).view(-1, width)
    same = documents[:, int(bos) :]
    assert torch.equal(same[:, :, None] == same[:, None], inside[:, :, None] == inside[:, None])
    assert same.min() >= 1
    assert not bos or (documents[:, 0] == 0).all()
    assert (windows.lengths == context).all()
    assert windows.bos == bos
    assert not bos or (windows.tokens[:, 0] == BOS).all()


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("separator", SEPARATORS)
def test_packed_live_is_everything_but_bos_and_separators(separator: str, bos: bool) -> None:
    windows = build(TEXTS, separator=separator, prepend_bos=bos)
    batch = windows.batch(range(len(windows)))
    assert batch.tokens.dtype == torch.int64
    assert batch.documents is None
    text = torch.ones_like(batch.live)
    for token in SEPARATORS[separator]:
        text &= batch.tokens != token
        assert (~text).any()
    if bos:
        text[:, 0] = False
    assert torch.equal(batch.live, text)
    assert torch.equal(windows.live(), text)


def test_a_separator_at_either_end_of_a_window_is_not_live() -> None:
    for texts, place in ((["x" * 7, "x" * 20], 0), (["x" * 6, "x" * 20], -1)):
        batch = build(texts, context=7, prepend_bos=False).batch([place + 1])
        assert batch.tokens[0, place] == EOS
        assert batch.live[0].logical_not().nonzero().flatten().tolist() == [place % 7]


def test_moving_a_batch_keeps_the_documents() -> None:
    batch = build(TEXTS, attend_across=False).batch([0, 1])
    assert batch.documents is not None
    assert torch.equal(batch.to("cpu").documents, batch.documents)
    assert build(TEXTS, packing="document", attend_across=False).batch([0]).documents is None


def test_documents_are_cut_padded_and_dropped_when_short() -> None:
    windows = build(TEXTS, packing="document")
    kept = [ids for ids in map(TOKENIZER.encode, TEXTS) if len(ids) >= 2]
    assert len(windows) == len(kept) < len(TEXTS)
    for row, length, ids in zip(windows.tokens.tolist(), windows.lengths.tolist(), kept, strict=True):
        assert length == 1 + min(7, len(ids))
        assert row == [BOS, *ids[:7]] + [PAD] * (8 - length)
    batch = windows.batch(range(len(windows)))
    assert batch.live.sum(1).tolist() == [min(7, len(ids)) for ids in kept]
    assert not batch.live[:, 0].any()


def test_a_pad_token_in_the_text_is_live() -> None:
    batch = build(["<pad>cat", "x <pad>"], packing="document").batch([0, 1])
    assert batch.live[0, 1]
    assert batch.tokens[0, 1] == PAD


def test_a_tokenizer_without_special_tokens() -> None:
    windows = build(TEXTS, tokenizer=NO_SPECIALS, separator="none")
    assert not windows.bos
    stream = [token for text in TEXTS for token in NO_SPECIALS.encode(text)]
    assert windows.tokens.flatten().tolist() == stream[: windows.tokens.numel()]
    assert build(["end"], tokenizer=NO_SPECIALS, packing="document").tokens[0, -1] == 0
    with pytest.raises(ConfigError, match=r"data\.prepend_bos=true: the tokenizer has no BOS"):
        build(TEXTS, tokenizer=NO_SPECIALS, prepend_bos=True)
    for separator in ("bos", "eos"):
        said = rf"data\.separator={separator}: the tokenizer has no {separator.upper()} token; allowed: auto, none"
        with pytest.raises(ConfigError, match=said):
            build(TEXTS, tokenizer=NO_SPECIALS, separator=separator)


@pytest.mark.parametrize("kind", ["packed", "document"])
def test_max_tokens_bounds_the_windows_and_leaves_the_first(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = TEXTS * 10
    everything = build(texts, packing=kind)
    for batch in (1, 7, 1_000):
        monkeypatch.setattr(packing, "_BATCH_DOCUMENTS", batch)
        for bound in (1, 8, 30, 64):
            some = build(texts, packing=kind, max_tokens=bound)
            assert some.n_tokens <= max(bound, 8)
            assert some.n_tokens > bound - 8
            assert torch.equal(some.tokens, everything.tokens[: len(some)])
            assert torch.equal(some.lengths, everything.lengths[: len(some)])


def test_reading_stops_at_max_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_BATCH_DOCUMENTS", 2)
    read: list[int] = []

    def endless() -> Any:
        while True:
            read.append(1)
            yield "the cat sat on the mat"

    build(endless(), max_tokens=80)
    assert len(read) < 100


@pytest.mark.parametrize("kind", ["packed", "document"])
def test_no_window_is_an_error_with_the_count(kind: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.context=8: the 2 documents have 2 tokens"):
        build(["x", "x"], packing=kind)


def test_long_documents_cause_no_warning(caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder) -> None:
    short = train_tokenizer(["the cat"], 280)
    short.model_max_length = 16
    assert len(build(["the cat " * 500], tokenizer=short)) > 100
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not recwarn.list


@pytest.mark.parametrize(
    "changes", [{"packing": "document"}, {"separator": "none"}, {"separator": "bos", "attend_across": False}], ids=str
)
def test_saved_and_loaded(tmp_path: Path, changes: dict[str, Any]) -> None:
    windows = build(TEXTS, **changes)
    windows.save(tmp_path / "w.safetensors")
    loaded = TokenWindows.load(tmp_path / "w.safetensors")
    assert torch.equal(loaded.tokens, windows.tokens)
    assert torch.equal(loaded.lengths, windows.lengths)
    assert loaded.bos is True
    assert loaded.separator == windows.separator
    ours, theirs = (side.batch(range(len(windows))) for side in (loaded, windows))
    assert torch.equal(ours.live, theirs.live)
    assert (ours.documents is None) == (theirs.documents is None) == changes.get("attend_across", True)
    assert ours.documents is None or torch.equal(ours.documents, theirs.documents)
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


GOOD = {"tokens": torch.ones(2, 8, dtype=torch.int32), "lengths": torch.tensor([8, 3], dtype=torch.int32)}
META = {"format": "scae.token_windows.2", "bos": "true", "separator": "none"}


@pytest.mark.parametrize(
    ("tensors", "metadata", "said"),
    [
        (GOOD, META | {"format": "scae.token_windows.1"}, r"format=scae\.token_windows\.1; needed"),
        (GOOD, META | {"bos": "1"}, "bos=1"),
        (GOOD, META | {"separator": "eos"}, "separator=eos; allowed: none, the number of a token"),
        (GOOD | {"starts": torch.ones(2, 7, dtype=torch.bool)}, META, r"torch\.bool of shape \(2, 7\)"),
        ({"tokens": GOOD["tokens"]}, META, "tensors tokens"),
        (GOOD | {"tokens": torch.ones(2, 8)}, META, "float32"),
        (GOOD | {"lengths": torch.ones(3, dtype=torch.int32)}, META, r"shape \(2, 8\), lengths \(3,\)"),
        (GOOD | {"lengths": torch.tensor([9, 3], dtype=torch.int32)}, META, "lengths from 3 to 9"),
        (GOOD | {"tokens": -GOOD["tokens"]}, META, "token of -1"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, tensors: Any, metadata: Any, said: str) -> None:
    save_file(tensors, tmp_path / "w.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match=rf"w\.safetensors: no token windows.*{said}"):
        TokenWindows.load(tmp_path / "w.safetensors")


def test_a_file_that_is_no_safetensors_or_missing(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_text("no")
    for name in ("w.safetensors", "missing.safetensors"):
        with pytest.raises(ValueError, match=f"{name}: cannot be read"):
            TokenWindows.load(tmp_path / name)
