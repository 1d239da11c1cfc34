"""Every preset of `conf/model` for a model of the hub, each as a small random model with the particulars of the real
one: opened exactly.

What a config of the hub says stands here as far as it is no default of transformers' and changes what is computed;
widths and depths are small, and windows and scaled positions short enough to matter for the tokens that are compared.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from experiments import configure

from scae.config import HubModel
from scae.core.typing import Tensor
from scae.lm import LanguageModel, open_model

CONF = Path(__file__).parents[2] / "conf"
VOCAB, CONTEXT, TEXT = 264, 32, 24
TOLERANCE = 2e-5  # of a log-probability
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


@dataclass(frozen=True)
class Like:
    """A small model that is like a real one. particulars: keys that change what it predicts, each with the value of a
    model that is not like it; tied: the unembedding is the embedding."""

    config: str
    network: str
    sizes: dict[str, Any]
    tied: bool
    particulars: dict[str, Any] = field(default_factory=dict)


def pythia(heads: int) -> Like:
    """rotary positions on a quarter of a head, attention and MLP side by side, biases, nothing tied."""
    sizes = SIZES | {"hidden_size": 8 * heads, "num_attention_heads": heads, "rotary_pct": 0.25, "hidden_act": "gelu"}
    sizes |= {"use_parallel_residual": True, "tie_word_embeddings": False}
    particulars = {"rotary_pct": 1.0, "use_parallel_residual": False, "hidden_act": "gelu_new"}
    return Like("GPTNeoXConfig", "GPTNeoXForCausalLM", sizes, tied=False, particulars=particulars)


def qwen3(head_dim: int) -> Like:
    """Queries and keys normalised by head; the heads of the 0.6B are wider together than its stream."""
    sizes = SIZES | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": head_dim, "rope_theta": 1e6}
    sizes |= {"rms_norm_eps": 1e-6, "tie_word_embeddings": True, "attention_bias": False, "sliding_window": None}
    return Like("Qwen3Config", "Qwen3ForCausalLM", sizes, tied=True, particulars={"rope_theta": 1e2})


LLAMA3_POSITIONS = {  # of 131,072 and 8,192: angles are divided where they turn less than once within the latter
    "rope_type": "llama3",
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 16,
}
GEMMA = SIZES | {
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}

LIKE: dict[str, Like] = {
    "gpt2": Like(
        "GPT2Config",
        "GPT2LMHeadModel",
        {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": VOCAB, "n_positions": CONTEXT}
        | {"bos_token_id": 1, "eos_token_id": 2, "activation_function": "gelu_new"},
        tied=True,
        particulars={"activation_function": "gelu"},
    ),
    "tinystories-33m": Like(
        "GPTNeoConfig",
        "GPTNeoForCausalLM",
        {"hidden_size": 16, "num_layers": 4, "num_heads": 2, "vocab_size": VOCAB, "max_position_embeddings": CONTEXT}
        | {"attention_types": [[["global", "local"], 2]], "window_size": 4, "activation_function": "gelu_new"}
        | {"bos_token_id": 1, "eos_token_id": 2},
        tied=True,
        particulars={"window_size": 256, "attention_types": [[["global"], 4]]},
    ),
    "pythia-70m": pythia(heads=4),
    "pythia-160m": pythia(heads=3),
    "pythia-410m": pythia(heads=4),
    "pythia-1b": pythia(heads=2),
    "pythia-1.4b": pythia(heads=4),
    "llama-3.2-1b": Like(
        "LlamaConfig",
        "LlamaForCausalLM",
        SIZES
        | {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8, "rope_theta": 1e2, "rms_norm_eps": 1e-5}
        | {"rope_scaling": LLAMA3_POSITIONS, "tie_word_embeddings": True},
        tied=True,
        particulars={"rope_scaling": None, "rope_theta": 1e4},
    ),
    "qwen3-0.6b": qwen3(head_dim=8),
    "qwen3-1.7b": qwen3(head_dim=4),
    "gemma-2-2b": Like(
        "Gemma2Config",
        "Gemma2ForCausalLM",
        GEMMA
        | {"num_hidden_layers": 4, "sliding_window": 4, "query_pre_attn_scalar": 9}
        | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 2.0},
        tied=True,
        particulars={"sliding_window": 4096, "query_pre_attn_scalar": 16}
        | {"attn_logit_softcapping": None, "final_logit_softcapping": None},
    ),
    "gemma-3-1b": Like(
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        GEMMA
        | {"num_hidden_layers": 7, "sliding_window": 4, "sliding_window_pattern": 6, "query_pre_attn_scalar": 9}
        | {"rope_theta": 1e6, "rope_local_base_freq": 1e2},
        tied=True,
        particulars={"sliding_window": 4096, "sliding_window_pattern": 2, "query_pre_attn_scalar": 16}
        | {"rope_theta": 1e2, "rope_local_base_freq": 1e6},
    ),
}
PARTICULARS = [(name, key) for name, like in LIKE.items() for key in like.particulars]


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return torch.randint(VOCAB, (2, TEXT), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def opened(
    tmp_path_factory: pytest.TempPathFactory, save_random: Callable[..., Any]
) -> Callable[[str], SimpleNamespace]:
    made: dict[str, SimpleNamespace] = {}

    def by_name(name: str) -> SimpleNamespace:
        if name not in made:
            folder, like = tmp_path_factory.mktemp("model"), LIKE[name]
            hf = save_random(folder, like.config, like.network, deepcopy(like.sizes))
            made[name] = SimpleNamespace(hf=hf, lm=open_model(folder, dtype="float32", prepend_bos="auto"))
        return made[name]

    return by_name


def of_the_hub() -> list[str]:
    presets = {path.stem: yaml.safe_load(path.read_text()) for path in (CONF / "model").glob("*.yaml")}
    return sorted(name for name, preset in presets.items() if "hub" in preset.get("defaults", ()))


def test_every_preset_is_tried() -> None:
    assert of_the_hub() == sorted(LIKE)


@pytest.mark.parametrize("name", LIKE)
def test_it_names_a_model_of_the_hub(name: str) -> None:
    model = configure("paths.output=out", f"model={name}").model
    assert isinstance(model, HubModel)
    owner, _, repository = model.name.partition("/")
    assert owner
    assert repository.lower().startswith(name)


def log_probs(lm: LanguageModel, tokens: Tensor) -> Tensor:
    trace = lm.trace(tokens)
    return lm.paths.logits(trace.stream(lm.paths.modules)).log_softmax(-1)


def ce(log_probs: Tensor, tokens: Tensor) -> Tensor:
    return F.nll_loss(log_probs[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


@pytest.mark.parametrize("name", LIKE)
@torch.no_grad()
def test_its_cross_entropy_is_that_of_transformers(
    name: str, opened: Callable[[str], SimpleNamespace], tokens: Tensor
) -> None:
    model = opened(name)
    ours, theirs = log_probs(model.lm, tokens), model.hf(tokens).logits.log_softmax(-1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(ce(ours, tokens), ce(theirs, tokens), rtol=1e-5, atol=0)
    embedding, unembedding = (get().weight for get in (model.hf.get_input_embeddings, model.hf.get_output_embeddings))
    assert (embedding is unembedding) == LIKE[name].tied


@pytest.mark.parametrize(("name", "key"), PARTICULARS)
@torch.no_grad()
def test_a_model_without_the_particular_predicts_otherwise(
    name: str, key: str, opened: Callable[[str], SimpleNamespace], tokens: Tensor
) -> None:
    """So that what is tried above is what the particular does."""
    import transformers as tr

    hf, like = opened(name).hf, LIKE[name]
    without = deepcopy(like.sizes | {key: like.particulars[key]})  # transformers writes into what it is given
    other = getattr(tr, like.network)(getattr(tr, like.config)(**without)).eval()
    other.load_state_dict(hf.state_dict())
    apart = (other(tokens).logits.log_softmax(-1) - hf(tokens).logits.log_softmax(-1)).abs().max()
    assert apart > 10 * TOLERANCE
