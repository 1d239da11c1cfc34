"""A model whose files do not hold what its config.json says is refused, with the names of the weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from scae.lm import UnsupportedModelError, open_model


@pytest.fixture
def folder(tmp_path: Path, save_llama: Callable[..., Path]) -> Path:
    return save_llama(tmp_path, tie_word_embeddings=True)


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(folder: Path) -> str:
    with pytest.raises(UnsupportedModelError, match=r"not those of its config\.json") as refused:
        open_model(folder, dtype="float32", prepend_bos="auto")
    return str(refused.value)


def test_a_whole_model_is_opened(folder: Path) -> None:
    """Tied embeddings are in the files once, and that is whole."""
    assert open_model(folder, dtype="float32", prepend_bos="auto").paths.n_layers == 2


def test_a_missing_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    told = refusal(folder)
    assert "missing: model.layers.1.mlp.up_proj.weight" in told
    assert "without a place" not in told


def test_more_layers_than_there_are(folder: Path) -> None:
    configure(folder, num_hidden_layers=3)
    assert "missing: model.layers.2." in refusal(folder)


def test_fewer_layers_than_there_are(folder: Path) -> None:
    configure(folder, num_hidden_layers=1)
    told = refusal(folder)
    assert "without a place in the model: model.layers.1." in told
    assert "more" in told


def test_weights_of_another_shape(folder: Path) -> None:
    configure(folder, intermediate_size=32)
    assert "of another shape: model.layers.0.mlp.down_proj.weight" in refusal(folder)


def told(folder: Path) -> str:
    """Why a model is refused: one line that begins with its name."""
    with pytest.raises(UnsupportedModelError) as refused:
        open_model(folder, dtype="float32", prepend_bos="auto")
    text = str(refused.value)
    assert text.startswith(f"model {folder}: ")
    assert "\n" not in text
    return text


def test_weights_that_are_no_numbers(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 2] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "weights with NaN or infinity: model.layers.1.mlp.up_proj.weight" in told(folder)


def test_a_tokenizer_larger_than_the_vocabulary(folder: Path) -> None:
    path = folder / "tokenizer.json"
    stored = json.loads(path.read_text())
    stored["added_tokens"].append(stored["added_tokens"][-1] | {"id": 300, "content": "<more>"})
    path.write_text(json.dumps(stored))
    assert "its tokenizer makes tokens up to" in told(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "empty", "gone"])
def test_a_damaged_file(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:40] if damage == "cut" else b"")
    assert "cannot be loaded" in told(folder)


def test_code_of_others_is_not_run(folder: Path) -> None:
    (folder / "modeling.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    configure(folder, model_type="other", auto_map={"AutoConfig": "modeling.Config"})
    assert "cannot be loaded" in told(folder)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("stored", ["config.json", "tokenizer_config.json"])
def test_code_beside_a_known_model_is_not_run(folder: Path, stored: str) -> None:
    """transformers has its own for these, and that is what runs."""
    (folder / "modeling.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    path = folder / stored
    auto_map = {"AutoConfig": "modeling.A", "AutoModelForCausalLM": "modeling.B", "AutoTokenizer": ["modeling.C", None]}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": auto_map}))
    assert open_model(folder, dtype="float32", prepend_bos="auto").paths.n_layers == 2
    assert not (folder / "ran").exists()
