"""Damaged files end in one of two ways: they are read, or one error names the file and what is wrong with it.

Good files are made once; every case damages a copy, at places drawn from a seed, or puts something else in its place.
"""

import gzip
import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file, save_file

from scae.artifacts import Artifact
from scae.artifacts.checkpoints import damage_of, read_identity
from scae.command import values
from scae.config import ConfigError, TextData, parse
from scae.connections import Connections
from scae.core.failures import ArtifactError
from scae.data import train_and_heldout, train_tokenizer
from scae.data.corpus import documents
from scae.data.corpus import fingerprint as corpus_fingerprint
from scae.lm import open_model
from scae.suite import Suite
from scae.suite.files import load, save

CONF = Path(__file__).parents[1] / "conf"
CLEAR = (ConfigError, ArtifactError, ValueError)  # a ValueError of ours names the file; the stages say how to repair it
LONGEST = 2_000  # characters of an error that a reader still takes in

Damage = Callable[[Path], None]


# Damage that any file can have.


def flip(seed: int) -> Damage:
    """Change one byte."""

    def damage(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[random.Random(seed).randrange(len(content))] ^= 0xFF
        file.write_bytes(content)

    return damage


def cut(seed: int) -> Damage:
    def damage(file: Path) -> None:
        file.write_bytes(file.read_bytes()[: random.Random(seed).randrange(file.stat().st_size)])

    return damage


def becomes(content: bytes) -> Damage:
    return lambda file: file.write_bytes(content) and None


def gone(file: Path) -> None:
    file.unlink()


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


class _Foreign:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.makedirs, ("executed",)


ANY: dict[str, Damage] = {
    **{f"flip {seed}": flip(seed) for seed in range(4)},
    **{f"cut {seed}": cut(seed) for seed in range(3)},
    "empty": becomes(b""),
    "zeros": becomes(bytes(1000)),
    "text": becomes(b"not what it should be\n"),
    "list": becomes(b"[1, 2]"),
    "null": becomes(b"null"),
    "deep": becomes(b"[" * 100_000),
    "foreign json": becomes(b'{"format": 3, "hyper_parameters": 1}'),
    "latin-1": becomes("\xe9t\xe9".encode("latin-1") * 50),
    "pickle": becomes(pickle.dumps(_Foreign())),
    "a folder": a_folder,
    "gone": gone,
}


def surprise(read: Callable[[], object], file: Path, *names: str) -> str | None:
    """What is wrong with how reading ends; None where the file is read, or refused in one error that names it."""
    try:
        read()
    except CLEAR as error:
        told = str(error)
        if not any(name in told for name in (str(file), *names)):
            return f"the file is not named: {type(error).__name__}: {told[:300]}"
        return None if len(told) <= LONGEST else f"an error of {len(told):,} characters"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    return None


# Text.


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


# Token windows: damage is repaired, with a warning.


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


# Models.


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, save_llama: Callable[..., Path]) -> Path:
    return save_llama(tmp_path_factory.mktemp("model"), num_hidden_layers=1)


MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def open_copy(folder: Path) -> Callable[[], object]:
    return lambda: open_model(folder, dtype="float32", prepend_bos="auto")


@pytest.mark.parametrize("damage", ANY)
@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_damaged_model(model: Path, tmp_path: Path, name: str, damage: str) -> None:
    folder = shutil.copytree(model, tmp_path / "copy")
    ANY[damage](folder / name)
    assert surprise(open_copy(folder), folder) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 0},
        {"num_hidden_layers": -1},
        {"num_hidden_layers": "2"},
        {"num_attention_heads": 3},
        {"num_attention_heads": 0},
        {"hidden_size": 17},
        {"hidden_size": None},
        {"vocab_size": 5},
        {"vocab_size": 10**6},
        {"max_position_embeddings": 0},
        {"rms_norm_eps": "small"},
        {"rms_norm_eps": float("nan")},
        {"rope_parameters": {"rope_type": "none"}},
        {"hidden_act": "nothing"},
        {"model_type": "bert"},
        {"model_type": "none"},
        {"model_type": 3},
        {"architectures": []},
        {"architectures": ["GPT2LMHeadModel"]},
        {"tie_word_embeddings": True},
        {"dtype": "float9"},
        {"quantization_config": {"quant_method": "none"}},
        {"auto_map": {"AutoConfig": "code.Config"}},
    ],
    ids=str,
)
def test_numbers_of_another_model(model: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = shutil.copytree(model, tmp_path / "copy")
    note = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(note | changes))
    assert surprise(open_copy(folder), folder) is None


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def with_nan(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    next(iter(weights.values())).fill_(float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def as_integers(folder: Path) -> None:
    weights = {name: value.to(torch.int32) for name, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def of_another(folder: Path) -> None:
    train_tokenizer(["many other words " * 9, "in another text"], 300).save_pretrained(folder)


def without_specials(folder: Path) -> None:
    note = json.loads((folder / "tokenizer_config.json").read_text())
    kept = {name: value for name, value in note.items() if not name.endswith("_token")}
    (folder / "tokenizer_config.json").write_text(json.dumps(kept))


def nothing(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


@pytest.mark.parametrize("change", [as_pickle, with_nan, as_integers, of_another, without_specials, nothing])
def test_other_files_in_a_model(model: Path, tmp_path: Path, change: Damage) -> None:
    folder = shutil.copytree(model, tmp_path / "copy")
    change(folder)
    assert surprise(open_copy(folder), folder) is None


# Suites, and their connections.


@dataclass(frozen=True)
class Kept:
    """A stored suite, and the model it was made for."""

    folder: Path
    lm: Any


@pytest.fixture(scope="session")
def kept(
    build_tiny: Callable[[str], SimpleNamespace],
    ragged: Any,
    all_sites: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Kept:
    lm, folder = build_tiny("gpt2").lm, tmp_path_factory.mktemp("suite")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = ["paths.output=out", "sae=topk", "sae.expansion=null", "sae.features=6", "sae.k=2"]
        settings = parse(values(compose("train", overrides=overrides))).sae
    suite = Suite.from_config(settings, all_sites(lm), lm)
    suite.connect(ragged(suite.layout))
    save(suite, folder)
    return Kept(folder, lm)


@pytest.mark.parametrize("damage", ANY)
@pytest.mark.parametrize("name", ["suite.json", "suite.safetensors", "connections.safetensors"])
def test_a_damaged_suite(kept: Kept, tmp_path: Path, name: str, damage: str) -> None:
    folder = shutil.copytree(kept.folder, tmp_path / "copy")
    ANY[damage](folder / name)
    assert surprise(lambda: load(folder, kept.lm), folder / name, str(folder)) is None


SHAPE = {"n_features": 6, "d_in": 16, "d_out": 16, "transcoder": False}
DESCRIBED = {"type": "topk", "k": 2, "shape": SHAPE}
"""What a good suite.json says of a dictionary."""


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 99},
        {"format": None},
        {"format": 4},
        {"dictionaries": {}},
        {"dictionaries": None},
        {"dictionaries": ["0.attn"]},
        {"dictionaries": {"0.attn": {}}},
        {"dictionaries": {"0.attn": None}},
        {"dictionaries": {"7.attn": DESCRIBED}},
        {"dictionaries": {"attn": DESCRIBED}},
        {"dictionaries": {"embed": DESCRIBED}},
        {"dictionaries": {"0.attn": DESCRIBED | {"type": "none"}}},
        {"dictionaries": {"0.attn": DESCRIBED | {"k": "2"}}},
        {"dictionaries": {"0.attn": DESCRIBED | {"later": 1}}},
        {"dictionaries": {"0.attn": DESCRIBED | {"shape": SHAPE | {"d_in": 17}}}},
        {"dictionaries": {"0.attn": DESCRIBED | {"shape": SHAPE | {"n_features": -1}}}},
        {"dictionaries": {"0.attn": DESCRIBED | {"shape": SHAPE | {"n_features": "6"}}}},
        {"dictionaries": {"0.attn": DESCRIBED | {"shape": None}}},
        {"ends": ["embed"]},
        {"ends": ["unembed"]},
        {"ends": ["0.attn"]},
        {"ends": ["attn"]},
        {"ends": None},
        {"threshold_pass": "none"},
        {"threshold_pass": 3},
    ],
    ids=str,
)
def test_a_suite_that_says_something_else(kept: Kept, tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = shutil.copytree(kept.folder, tmp_path / "copy")
    note = json.loads((folder / "suite.json").read_text())
    (folder / "suite.json").write_text(json.dumps(note | changes))
    assert surprise(lambda: load(folder, kept.lm), folder / "suite.json", str(folder)) is None


def rewrite(change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Damage:
    """Change the tensors and the layout of a connections file."""

    def damage(file: Path) -> None:
        from safetensors import safe_open

        tensors = load_file(file)
        with safe_open(file, framework="pt") as opened:
            layout = json.loads(opened.metadata()["scae.connections"])
        change(tensors, layout)
        save_file(tensors, file, metadata={"scae.connections": json.dumps(layout)})

    return damage


def in_all(change: Callable[[str, Any], Any]) -> Damage:
    return rewrite(lambda tensors, _: tensors.update({name: change(name, value) for name, value in tensors.items()}))


EDGES: dict[str, Damage] = {
    "beyond": in_all(lambda name, value: value + 1000 if name.endswith("up") else value),
    "negative": in_all(lambda name, value: value - 1 if name.endswith("up") else value),
    "backwards": in_all(lambda name, value: value.flip(0).contiguous() if name.endswith("up") else value),
    "twice": in_all(lambda name, value: value * 0 if name.endswith("up") else value),
    "falling": in_all(lambda name, value: value.flip(0).contiguous() if name.endswith("crow") else value),
    "nan": in_all(lambda _, value: value.float() * float("nan")),
    "floats": in_all(lambda _, value: value.float()),
    "bytes": in_all(lambda _, value: value.to(torch.uint8)),
    "long": in_all(lambda _, value: value.long()),
    "booleans": in_all(lambda _, value: value.bool()),
    "matrices": in_all(lambda _, value: value[None]),
    "scalars": in_all(lambda _, value: value.sum()),
    "nothing": in_all(lambda _, value: value[:0].clone()),
    "one site less": rewrite(lambda tensors, _: tensors.pop("0.mlp.up")),
    "another order": rewrite(lambda _, layout: layout["sites"].reverse()),
    "other sizes": rewrite(lambda _, layout: layout.update(sizes=[size + 1 for size in layout["sizes"]])),
    "sizes as text": rewrite(lambda _, layout: layout.update(sizes=[str(size) for size in layout["sizes"]])),
    "no sizes": rewrite(lambda _, layout: layout.pop("sizes")),
    "no sites": rewrite(lambda _, layout: layout.update(sites=[], sizes=[], reads=[])),
    "parallel": rewrite(lambda _, layout: layout.update(reads=[0, 0, 2, 2])),
    "reads beyond": rewrite(lambda _, layout: layout.update(reads=[count + 1 for count in layout["reads"]])),
    "reads as text": rewrite(lambda _, layout: layout.update(reads=[str(count) for count in layout["reads"]])),
    "no reads": rewrite(lambda _, layout: layout.pop("reads")),
    "another format": rewrite(lambda _, layout: layout.update(format=1)),
    "no format": rewrite(lambda _, layout: layout.pop("format")),
    "complete": rewrite(lambda _, layout: layout.update(complete=True)),
}


@pytest.mark.parametrize("damage", EDGES)
def test_connections_that_cannot_be(kept: Kept, tmp_path: Path, damage: str) -> None:
    folder = shutil.copytree(kept.folder, tmp_path / "copy")
    file = folder / "connections.safetensors"
    EDGES[damage](file)
    assert surprise(lambda: load(folder, kept.lm), file) is None


@pytest.mark.parametrize(
    "damage",
    ["another order", "parallel", "reads beyond", "reads as text", "no reads", "another format", "no format"],
)
def test_connections_of_another_layout_are_refused(kept: Kept, tmp_path: Path, damage: str) -> None:
    folder = shutil.copytree(kept.folder, tmp_path / "copy")
    EDGES[damage](folder / "connections.safetensors")
    with pytest.raises(ValueError, match=r"connections\.safetensors (is no connections file|does not fit)"):
        load(folder, kept.lm)


@pytest.mark.parametrize("damage", ["floats", "bytes", "booleans", "long", "matrices"])
def test_connections_are_vectors_of_int32(kept: Kept, tmp_path: Path, damage: str) -> None:
    file = Path(shutil.copy(kept.folder / "connections.safetensors", tmp_path))
    EDGES[damage](file)
    with pytest.raises(ValueError, match="needed: a vector of int32"):
        Connections.load(file)


# Checkpoints, and the notes of artifacts.


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("checkpoint") / "last.ckpt"
    torch.save({"hyper_parameters": {"artifact": "pretrain-0"}, "state_dict": {"a": torch.ones(50)}}, file)
    return file


@pytest.mark.parametrize("damage", ANY)
def test_a_damaged_checkpoint(checkpoint: Path, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path(shutil.copy(checkpoint, tmp_path))
    ANY[damage](file)
    assert surprise(lambda: read_identity(file), file) is None
    if file.is_file():
        assert surprise(lambda: damage_of(file), file) is None
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "content", [1, [1], {}, {"hyper_parameters": 3}, {"hyper_parameters": [1]}, {1: torch.ones(2)}]
)
def test_a_checkpoint_of_something_else(tmp_path: Path, content: Any) -> None:
    file = tmp_path / "last.ckpt"
    torch.save(content, file)
    assert surprise(lambda: read_identity(file), file) is None


def test_a_checkpoint_of_objects_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "last.ckpt"
    torch.save({"hyper_parameters": _Foreign()}, file)
    assert surprise(lambda: read_identity(file), file) is None
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("damage", ANY)
@pytest.mark.parametrize("name", ["artifact.json", "content.json"])
def test_a_damaged_artifact(tmp_path: Path, name: str, damage: str) -> None:
    artifact = Artifact(tmp_path, "select", {"a": 1})

    def make(folder: Path) -> dict[str, Any]:
        (folder / "content.json").write_text("[1, 2, 3]")
        return {"tokens": 3}

    artifact.build(make)
    file = artifact.folder / name
    ANY[damage](file)

    def read() -> None:
        if artifact.is_complete and (told := artifact.damage()):
            raise ArtifactError(told)
        artifact.build(make)
        assert artifact.facts()["tokens"] == 3

    assert surprise(read, file) is None
