"""A model that runs in bfloat16: close to itself in float32, under a suite that computes in float32 all the same."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from edge_lists import every_pair

from scae.core.typing import Tensor
from scae.lm import LanguageModel, Trace, open_model
from scae.suite import Mode, Suite

SIZES = {
    "vocab_size": 264,
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "GPT-2": (
        "GPT2Config",
        "GPT2LMHeadModel",
        {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 264, "n_positions": 32},
    ),
    "Pythia": ("GPTNeoXConfig", "GPTNeoXForCausalLM", SIZES),
    "Llama": ("LlamaConfig", "LlamaForCausalLM", SIZES | {"num_key_value_heads": 1}),
    "Gemma 2": ("Gemma2Config", "Gemma2ForCausalLM", SIZES | {"num_key_value_heads": 1, "head_dim": 16}),
}
EPSILON = 2**-8  # of bfloat16; each of a few modules adds some of it
Both = tuple[LanguageModel, LanguageModel]


@pytest.fixture(scope="module", params=MODELS)
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, save_random: Callable[..., Any]
) -> Both:
    folder = tmp_path_factory.mktemp("model")
    save_random(folder, *MODELS[request.param])
    full, half = (open_model(folder, dtype=dtype, prepend_bos=False) for dtype in ("float32", "bfloat16"))
    return full, half


@pytest.fixture(scope="module")
def traces(both: Both) -> tuple[Trace, Trace]:
    tokens = torch.randint(264, (2, 24), generator=torch.Generator().manual_seed(3))
    full, half = (lm.trace(tokens) for lm in both)
    return full, half


def apart(ours: Tensor, theirs: Tensor) -> float:
    return float(((ours - theirs).norm() / theirs.norm()).detach())


def test_what_is_traced_is_of_the_precision_of_the_suite(both: Both, traces: tuple[Trace, Trace]) -> None:
    full, half = both
    assert {p.dtype for p in half.bridge.parameters()} == {torch.bfloat16}
    for lm, trace in zip(both, traces, strict=True):
        weights = (
            lm.paths.W_V,
            lm.paths.W_O,
            lm.paths.W_U,
            trace.embed,
            *trace.outputs.values(),
            *trace.scales.values(),
        )
        assert {tensor.dtype for tensor in weights} == {torch.float32}
    for module in full.paths.modules:
        assert 1e-4 < apart(traces[1].outputs[module], traces[0].outputs[module]) < 8 * EPSILON


def test_its_cross_entropy(both: Both, traces: tuple[Trace, Trace]) -> None:
    full, half = (
        F.cross_entropy(trace.at_scored(lm.paths.logits(trace.stream(lm.paths.modules))), trace.targets)
        for lm, trace in zip(both, traces, strict=True)
    )
    assert full != half
    torch.testing.assert_close(half, full, rtol=EPSILON, atol=0)


@pytest.mark.parametrize("mode", ["plain", "spliced", "dense", "pruned"])
def test_every_pass_is_near_that_of_the_whole_model(
    both: Both, traces: tuple[Trace, Trace], make_suite: Callable[..., Suite], mode: Mode
) -> None:
    """The same dictionaries on both, and none that chooses its features by rank: those of near ties would flip."""
    outs = []
    for lm, trace in zip(both, traces, strict=True):
        suite = make_suite(lm, activation="relu").float()
        suite.connect(every_pair(suite))
        outs.append(suite(trace, mode))
    full, half = outs
    assert half.residual().dtype == torch.float32
    assert 1e-5 < apart(half.residual(), full.residual()) < 8 * EPSILON


def test_the_pruned_pass_loses_nothing_to_bfloat16(
    both: Both, traces: tuple[Trace, Trace], make_suite: Callable[..., Suite]
) -> None:
    """With every connection it is the dense pass, to what float32 holds: only the frozen run is rounded."""
    suite = make_suite(both[1], activation="relu").float()
    suite.connect(every_pair(suite))
    dense, pruned = suite(traces[1], "dense"), suite(traces[1], "pruned")
    torch.testing.assert_close(pruned.residual(), dense.residual(), rtol=1e-4, atol=1e-4)
