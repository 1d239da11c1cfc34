"""A model whose files do not hold what its config.json says is refused, with the names of the weights."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from scae.data import train_tokenizer
from scae.lm import UnsupportedModelError, open_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Llama of two layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = train_tokenizer(["one two three"], 260)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


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
