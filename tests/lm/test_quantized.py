"""Weights in 8 and 4 bits: the model is the one that transformers quantises, and its paths are those of these weights.

Here bitsandbytes runs on the CPU, where a user is refused; its own packing for CPUs is off, so that weights lie as they
do on a GPU. What is not tried is a GPU.
"""

import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from edge_lists import every_pair
from experiments import MICRO, configure, corpus, execute

from scae.config import ConfigError
from scae.core.typing import Tensor
from scae.lm import Module, UnsupportedModelError, open_model
from scae.lm.paths import Attention
from scae.lm.quantized import is_packed, loading, place, readable
from scae.suite import Suite

SIZES = {
    "vocab_size": 264,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Llama": ("LlamaConfig", "LlamaForCausalLM", SIZES | {"num_key_value_heads": 2}),
    "Gemma 2, norms after": ("Gemma2Config", "Gemma2ForCausalLM", SIZES | {"num_key_value_heads": 2, "head_dim": 32}),
    "OPT, LayerNorm and biases": ("OPTConfig", "OPTForCausalLM", SIZES | {"ffn_dim": 128, "word_embed_proj_dim": 64}),
}
CPU = torch.device("cpu")
BITS = ("4bit", "8bit")


@pytest.fixture(scope="module")
def on_the_cpu() -> Iterator[None]:
    modules = pytest.importorskip("bitsandbytes.nn.modules")
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)  # that float32 becomes float16 where it is rounded to 8 bits: in every product
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modules, "has_avx512bf16", lambda: False)
        patch.setattr("scae.lm.load.place", lambda quantize, device: CPU)
        yield
    logger.setLevel(level)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, save_random: Callable[..., Any]) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def by_name(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("model")
            save_random(made[name], *MODELS[name])
        return made[name]

    return by_name


@pytest.fixture(scope="module", params=[(name, bits) for name in MODELS for bits in BITS], ids=" ".join)
def quantized(request: pytest.FixtureRequest, on_the_cpu: None, folders: Callable[[str], Path]) -> SimpleNamespace:
    from transformers import AutoModelForCausalLM

    name, bits = request.param
    how = loading(bits, dtype=torch.float32, device=CPU)
    hf = AutoModelForCausalLM.from_pretrained(folders(name), dtype=torch.float32, **how).eval()
    lm = open_model(folders(name), dtype="float32", prepend_bos="auto", quantize=bits)
    return SimpleNamespace(hf=hf, lm=lm, bits=bits)


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return torch.randint(264, (2, 11), generator=torch.Generator().manual_seed(3))


def attentions(model: SimpleNamespace) -> list[Any]:
    return [block.attn for block in model.lm.bridge.blocks]


@torch.no_grad()
def test_its_predictions_are_those_of_transformers(quantized: SimpleNamespace, tokens: Tensor) -> None:
    lm = quantized.lm
    trace = lm.trace(tokens)
    ours = lm.paths.logits(trace.stream(lm.paths.modules)).log_softmax(-1)
    theirs = quantized.hf(tokens).logits.log_softmax(-1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert theirs.std() > 0.02


def test_its_layers_are_packed(quantized: SimpleNamespace) -> None:
    stored = {"4bit": torch.uint8, "8bit": torch.int8}[quantized.bits]
    for attn in attentions(quantized):
        assert attn.v.original_component.weight.dtype == attn.o.original_component.weight.dtype == stored


@torch.no_grad()
def test_a_readable_weight_is_what_the_map_multiplies_by(quantized: SimpleNamespace) -> None:
    """What it makes of unit vectors, which 8 bits hold exactly; its product is in float16 then."""
    for attn in attentions(quantized):
        for one in (attn.v, attn.o):
            inner = one.original_component
            packed = inner.weight
            made = inner(torch.eye(inner.in_features))
            made = made if inner.bias is None else made - inner.bias
            with readable(one):
                assert not is_packed(inner.weight)
                torch.testing.assert_close(inner.weight.T.float(), made.float(), rtol=2e-3, atol=2e-3)
            assert inner.weight is packed


def test_a_weight_is_packed_again_whatever_happens(quantized: SimpleNamespace) -> None:
    attn = attentions(quantized)[0]
    packed = attn.v.original_component.weight

    def fail() -> None:
        with readable(attn.v, attn.o):
            raise KeyError("anything")

    with pytest.raises(KeyError):
        fail()
    assert attn.v.original_component.weight is packed


@torch.no_grad()
def test_the_frozen_path_is_the_attention_as_it_runs(quantized: SimpleNamespace, tokens: Tensor) -> None:
    """With 4 bits to what float32 holds; with 8, to what rounding the input costs."""
    lm = quantized.lm
    trace = lm.trace(tokens)
    loose = {"4bit": 1e-5, "8bit": 2e-2}[quantized.bits]
    for module, stream in trace.streams(lm.paths.levels):
        if module.kind == "attn":
            ours, theirs = Attention(lm.paths, module).read(stream, trace), trace.outputs[module]
            assert (ours - theirs).norm() < loose * theirs.norm()


@torch.no_grad()
def test_a_prediction_does_not_see_what_it_predicts(quantized: SimpleNamespace, tokens: Tensor) -> None:
    """No token has a part in how another is rounded, also where the stream is large."""
    other = tokens.clone()
    other[:, -1] = (other[:, -1] + 1) % 264
    one, two = (quantized.lm.trace(windows) for windows in (tokens, other))
    for module in quantized.lm.paths.modules:
        torch.testing.assert_close(one.outputs[module][:, :-1], two.outputs[module][:, :-1], rtol=0, atol=1e-6)
    assert not torch.equal(one.outputs[Module(1, "mlp")], two.outputs[Module(1, "mlp")])


def test_gradients_flow_through_it_into_what_is_spliced_in(quantized: SimpleNamespace, tokens: Tensor) -> None:
    lm = quantized.lm
    trace = lm.trace(tokens)
    added = torch.zeros(lm.paths.d_model, requires_grad=True)

    def replace(module: Module, read: Tensor | None, wrote: Tensor) -> Tensor:
        return wrote + added if module == Module(0, "mlp") else wrote

    wrote = lm.splice(trace, replace, readers=())
    for module in lm.paths.modules:
        torch.testing.assert_close(wrote[module], trace.outputs[module], rtol=1e-4, atol=1e-4)
    (gradient,) = torch.autograd.grad(wrote[Module(1, "mlp")].square().mean(), added)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_with_every_connection_the_pruned_pass_is_the_dense_one(
    quantized: SimpleNamespace, tokens: Tensor, make_suite: Callable[..., Suite]
) -> None:
    trace = quantized.lm.trace(tokens)
    suite = make_suite(quantized.lm, activation="relu").float()
    suite.connect(every_pair(suite))
    dense, pruned = suite(trace, "dense"), suite(trace, "pruned")
    torch.testing.assert_close(pruned.residual(), dense.residual(), rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_an_experiment_on_it_and_what_is_opened_of_its_run(
    on_the_cpu: None, tmp_path: Path, save_llama: Callable[..., Path]
) -> None:
    from scae import open_run

    corpus(tmp_path / "text.jsonl")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 64}
    save_llama(tmp_path / "model", text=(tmp_path / "text.jsonl").read_text(), vocab_size=300, **sizes)
    own = ("model=local", f"model.path={tmp_path / 'model'}", "model.quantize=4bit", "trainer.accelerator=auto")
    folders = (f"paths.artifacts={tmp_path / 'artifacts'}", f"paths.output={tmp_path / 'run'}")
    short = [part for part in MICRO if not part.startswith("model.")]
    metrics = execute(configure(*short, *own, f"data.path={tmp_path / 'text.jsonl'}", *folders, "loss=kl"))
    assert all(math.isfinite(value) for value in metrics.values())
    run = open_run(tmp_path / "run")
    assert is_packed(run.lm.bridge.blocks[0].attn.v.original_component.weight)
    assert run.suite(run.lm.trace("ban kolo"), mode="pruned").residual().isfinite().all()


@pytest.mark.parametrize("bits", BITS)
def test_a_joint_map_cannot_be_quantised(
    bits: str, on_the_cpu: None, tmp_path: Path, save_random: Callable[..., Any]
) -> None:
    save_random(tmp_path, "GPTNeoXConfig", "GPTNeoXForCausalLM", SIZES)
    with pytest.raises(
        UnsupportedModelError, match=f"quantize={bits}, allowed: null .*joint one of queries"
    ) as refused:
        open_model(tmp_path, dtype="float32", prepend_bos="auto", quantize=bits)
    assert "\n" not in str(refused.value)


def test_a_model_that_is_stored_quantised_is_refused(on_the_cpu: None, folders: Callable[[str], Path]) -> None:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folders("Llama"))
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    config.save_pretrained(folders("Llama") / "stored")
    with pytest.raises(UnsupportedModelError, match=r"weights are stored quantised \(gptq\); supported: .* in float"):
        open_model(folders("Llama") / "stored", dtype="float32", prepend_bos="auto")


# where it cannot be done, nothing is loaded


@pytest.fixture
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scae.lm.load.place", place)  # not the one for the tests above
    monkeypatch.setattr("scae.lm.load._load", lambda *_: pytest.fail("loaded"))


def test_without_a_gpu(nothing_is_loaded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scae.lm.quantized.has_bitsandbytes", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"^model\.quantize=4bit: torch finds no GPU on this machine; allowed"):
        open_model("a/b", dtype="float32", prepend_bos="auto", quantize="4bit")


def test_without_the_package(nothing_is_loaded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scae.lm.quantized.has_bitsandbytes", lambda: False)
    with pytest.raises(ConfigError, match=r"^model\.quantize=8bit: needs .*bitsandbytes; pip install -e \"\.\[gpu\]\""):
        open_model("a/b", dtype="float32", prepend_bos="auto", quantize="8bit")


def test_every_process_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scae.lm.quantized.has_bitsandbytes", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert place("4bit", None) == torch.device("cuda", 1)
    assert place("4bit", torch.device("cuda", 2)) == torch.device("cuda", 2)
