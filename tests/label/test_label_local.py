"""A model of this machine: tiny and random, so that it says nothing that can be read."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from scae.label.__main__ import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-judge")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=len(letters), n_positions=4096)
    config.bos_token_id = config.eos_token_id = None
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_a_local_model_runs_to_the_end_and_is_recorded_honestly(
    run: Path, model: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection is opened")

    monkeypatch.setattr(socket.socket, "connect", forbidden)
    arguments = [str(run), "--local", str(model), "--features", "0.mlp/0,10.attn/0", "--max-tokens", "8"]
    assert main(arguments) == 0
    content = json.loads((run / "labels.json").read_text())
    assert content["model"] == model.name
    assert content["labels"] == {}
    assert {entry["problem"] for entry in content["unlabelled"].values()} == {"unparseable"}
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"asks the model in {model} on this machine, nothing is sent: 2 features, up to 10 requests"
    assert printed[-1].startswith("labelled 0 of 2 features, 2 without a readable description: ")
    before = (run / "labels.json").read_bytes()
    assert main([*arguments, "--again"]) == 0  # greedy
    assert (run / "labels.json").read_bytes() == before


def test_a_prompt_that_is_too_long_for_it_is_one_line(run: Path, model: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(run), "--local", str(model), "--features", "0.mlp/0", "--max-tokens", "4000"]) == 2
    error = capsys.readouterr().err
    assert "are more than the 4096 tokens that the local model reads" in error
    assert len(error.splitlines()) == 1


def test_a_folder_with_pickled_weights_is_not_opened(
    run: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    for path in model.iterdir():
        if path.suffix == ".json":
            (folder / path.name).write_bytes(path.read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"anything")
    assert main([str(run), "--local", str(folder), "--features", "0.mlp/0"]) == 2
    assert "cannot be loaded" in capsys.readouterr().err


def test_a_chat_template_is_used_where_there_is_one(model: Path) -> None:
    from scae.label.local import Local

    local = Local(model, longest=4)
    plain = local._tokens("hello")
    local._tokenizer.chat_template = (
        "{% for message in messages %}[{{ message.role }}]{{ message.content }}{% endfor %}"
    )
    assert local._tokenizer.decode(local._tokens("hello")[0]) == "[user]hello"
    assert local._tokenizer.decode(plain[0]) == "hello"
