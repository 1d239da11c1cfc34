"""Architectures that were tried, each a small random model: opened exactly, or refused with the reason.

The table in README.md says the same; a test here compares them.
"""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from scae.core.typing import Tensor
from scae.lm import LanguageModel, Module, UnsupportedModelError, open_model
from scae.lm.paths import Attention, Direct

README = Path(__file__).parents[2] / "README.md"
VOCAB, CONTEXT = 264, 32
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = {"num_key_value_heads": 1, "head_dim": 8}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}

OPENED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "GPT-2": ("GPT2Config", "GPT2LMHeadModel", GPT | {"n_positions": CONTEXT}),
    "GPT-Neo": (
        "GPTNeoConfig",
        "GPTNeoForCausalLM",
        {
            "hidden_size": 16,
            "num_layers": 2,
            "num_heads": 2,
            "vocab_size": VOCAB,
            "max_position_embeddings": CONTEXT,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "GPT-NeoX": ("GPTNeoXConfig", "GPTNeoXForCausalLM", SIZES),
    "GPT-J": ("GPTJConfig", "GPTJForCausalLM", GPT | {"n_positions": CONTEXT, "rotary_dim": 4}),
    "Llama": ("LlamaConfig", "LlamaForCausalLM", SIZES),
    "Mistral": ("MistralConfig", "MistralForCausalLM", SIZES | {"num_key_value_heads": 1, "sliding_window": 4}),
    "Mixtral": ("MixtralConfig", "MixtralForCausalLM", SIZES | EXPERTS | {"num_key_value_heads": 1}),
    "Qwen 2": ("Qwen2Config", "Qwen2ForCausalLM", SIZES | {"num_key_value_heads": 1}),
    "Qwen 3": ("Qwen3Config", "Qwen3ForCausalLM", SIZES | GROUPED),
    "Gemma": ("GemmaConfig", "GemmaForCausalLM", SIZES | GROUPED),
    "Gemma 2": (
        "Gemma2Config",
        "Gemma2ForCausalLM",
        SIZES | GROUPED | {"final_logit_softcapping": 2.0, "sliding_window": 4},
    ),
    "Gemma 3": ("Gemma3TextConfig", "Gemma3ForCausalLM", SIZES | GROUPED | {"sliding_window": 4}),
    "Phi": ("PhiConfig", "PhiForCausalLM", SIZES),
    "Phi-3": ("Phi3Config", "Phi3ForCausalLM", SIZES),
    "Falcon": ("FalconConfig", "FalconForCausalLM", SIZES | {"ffn_hidden_size": 24}),
    "Cohere": ("CohereConfig", "CohereForCausalLM", SIZES),
    "OLMo": ("OlmoConfig", "OlmoForCausalLM", SIZES),
    "OLMo 2": ("Olmo2Config", "Olmo2ForCausalLM", SIZES),
    "OPT": ("OPTConfig", "OPTForCausalLM", SIZES | {"ffn_dim": 24, "word_embed_proj_dim": 16}),
    "BLOOM": (
        "BloomConfig",
        "BloomForCausalLM",
        {"vocab_size": VOCAB, "hidden_size": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "StableLM": ("StableLmConfig", "StableLmForCausalLM", SIZES | {"num_key_value_heads": 2}),
}
REFUSED: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "GPT-OSS": (
        "GptOssConfig",
        "GptOssForCausalLM",
        SIZES | GROUPED | EXPERTS | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        r"TransformerLens does not run this architecture as transformers does: .* relative \S+, .* part in layer 0",
    ),
    "OPT-350M": (
        "OPTConfig",
        "OPTForCausalLM",
        SIZES | {"ffn_dim": 24, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
        "do_layer_norm_before=False: the stream itself is normalised",
    ),
    "Mamba": (
        "MambaConfig",
        "MambaForCausalLM",
        {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
        "no attention in layers 0, 1",
    ),
    "T5": (
        "T5Config",
        "T5ForConditionalGeneration",
        {"vocab_size": VOCAB, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2},
        "model_type=t5 is an encoder with a decoder",
    ),
    "BERT": ("BertConfig", "BertForMaskedLM", SIZES, "it is no causal language model"),
}


@pytest.fixture(scope="module", params=OPENED)
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, save_random: Callable[..., Any]
) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("model")
    hf = save_random(folder, *OPENED[request.param])
    return SimpleNamespace(hf=hf, lm=open_model(folder, dtype="float32", prepend_bos="auto"))


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return torch.randint(VOCAB, (2, 11), generator=torch.Generator().manual_seed(3))


def ce(logits: Tensor, tokens: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


@torch.no_grad()
def test_its_cross_entropy_is_that_of_transformers(opened: SimpleNamespace, tokens: Tensor) -> None:
    lm: LanguageModel = opened.lm
    theirs = opened.hf(tokens).logits
    trace = lm.trace(tokens)
    ours = lm.paths.logits(trace.stream(lm.paths.modules))
    torch.testing.assert_close(ours.log_softmax(-1), theirs.log_softmax(-1), rtol=0, atol=2e-5)
    torch.testing.assert_close(ce(ours, tokens), ce(theirs, tokens), rtol=1e-5, atol=0)
    assert theirs.log_softmax(-1).std() > 0.02


def test_splicing_in_what_is_there_changes_nothing(opened: SimpleNamespace, tokens: Tensor) -> None:
    """Also: what an MLP's dictionary reads in the live model is what the frozen path says."""
    lm: LanguageModel = opened.lm
    trace = lm.trace(tokens)
    reads: dict[Module, Tensor] = {}

    def identity(module: Module, read: Tensor, wrote: Tensor) -> Tensor:
        reads[module] = read
        return wrote

    wrote = lm.splice(trace, identity, readers=lm.paths.modules)
    assert wrote.keys() == reads.keys() == set(lm.paths.modules)
    for module, stream in trace.streams(lm.paths.levels):
        torch.testing.assert_close(wrote[module], trace.outputs[module], rtol=1e-4, atol=1e-5)
        assert reads[module].shape == trace.embed.shape
        if module.kind == "mlp":
            ours = Direct(lm.paths, module).read(stream, trace)
            torch.testing.assert_close(ours, reads[module], rtol=1e-4, atol=1e-4)


def test_virtual_weights_are_the_linear_path_of_one_row(opened: SimpleNamespace, tokens: Tensor) -> None:
    """A decoder row at one position moves a downstream encoder row by its virtual weight, along any path."""
    lm: LanguageModel = opened.lm
    paths, trace = lm.paths, lm.trace(tokens)
    encoder, decoder = torch.randn(2, 3, paths.d_model, generator=torch.Generator().manual_seed(0))
    stream = torch.zeros_like(trace.embed)
    stream[:, 2] = decoder[0]
    for module in paths.modules:
        path = Attention(paths, module) if module.kind == "attn" else Direct(paths, module)
        moved = (path.read(stream, trace) - path.read(stream * 0, trace)) @ encoder.T
        weight = (path.readers(encoder) * path.writers(decoder[:1])).sum(-1)  # down, head
        contributions = torch.zeros(*tokens.shape, weight.shape[1], 3)
        contributions[:, 2] = weight.T
        mover = path.mover(trace, torch.tensor(1.0))
        if path.moves:
            arrived = torch.einsum("bqkh,bkhi->bqi", mover, contributions)
        else:
            arrived = mover.view(*tokens.shape, 1) * contributions[:, :, 0]
        torch.testing.assert_close(arrived, moved, rtol=1e-3, atol=1e-4)
        assert moved.abs().max() > 1e-3


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_opened_is_refused_with_the_reason(
    name: str, tmp_path: Path, save_random: Callable[..., Any]
) -> None:
    *how, reason = REFUSED[name]
    save_random(tmp_path, *how)
    with pytest.raises(UnsupportedModelError, match=f"^model {tmp_path}: .*{reason}") as refused:
        open_model(tmp_path, dtype="float32", prepend_bos="auto")
    assert "\n" not in str(refused.value)


def test_the_readme_lists_them() -> None:
    rows = re.findall(r"^\| (opened|refused)[^|]*\| ([^|]+) \|$", README.read_text(), re.MULTILINE)
    listed = {(how, name.strip()) for how, names in rows for name in re.sub(r" \([^)]*\)", "", names).split(",")}
    assert listed == {("opened", name) for name in OPENED} | {("refused", name) for name in REFUSED}
