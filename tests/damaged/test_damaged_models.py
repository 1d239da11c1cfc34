"""Damaged models, and models that say something else than they are."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import ANY, Damage, surprise
from safetensors.torch import load_file, save_file

from scae.data import train_tokenizer
from scae.lm import open_model


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
