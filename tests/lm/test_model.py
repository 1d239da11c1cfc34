"""The frozen language model: it is still the model that Hugging Face runs, and its linear paths reproduce it."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from scae.core.typing import Tensor
from scae.lm import LanguageModel, Module, Trace, UnsupportedModelError, open_model
from scae.lm.checks import check_blocks, check_exact
from scae.lm.paths import Attention, Direct

STORIES = Path(__file__).parents[2] / "../shared/data/stories260K"
TEXT = Path(__file__).parents[2] / "../shared/data/text/tinystories.jsonl"


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


def log_probs(logits: Tensor) -> Tensor:
    return logits.log_softmax(-1)


@torch.no_grad()
def hugging_face(tiny: SimpleNamespace, tokens: Tensor, ablated: Module | None = None) -> Tensor:
    """Next-token log-probabilities of the model as it was before folding, one module's output set to 0."""
    layers, attn = {
        "gpt2": lambda hf: (hf.transformer.h, "attn"),
        "neox": lambda hf: (hf.gpt_neox.layers, "attention"),
        "llama": lambda hf: (hf.model.layers, "self_attn"),
    }[tiny.architecture](tiny.hf)
    handle = None
    if ablated is not None:
        module = getattr(layers[ablated.layer], attn if ablated.kind == "attn" else "mlp")
        handle = module.register_forward_hook(
            lambda module, args, out: (out[0] * 0, *out[1:]) if isinstance(out, tuple) else out * 0
        )
    try:
        return log_probs(tiny.hf(tokens).logits)
    finally:
        if handle is not None:
            handle.remove()


def test_folding_changes_no_prediction(tiny: SimpleNamespace, trace: Trace) -> None:
    theirs = hugging_face(tiny, trace.tokens)
    torch.testing.assert_close(log_probs(tiny.lm.bridge(trace.tokens)), theirs, rtol=0, atol=1e-5)
    assert theirs.std() > 0.1  # a model that says the same of every token would hide mistakes


def test_the_traced_stream_gives_the_models_predictions(tiny: SimpleNamespace, trace: Trace) -> None:
    logits = tiny.lm.paths.logits(trace.stream(tiny.lm.paths.modules))
    torch.testing.assert_close(log_probs(logits), hugging_face(tiny, trace.tokens), rtol=0, atol=1e-5)


def test_a_trace_is_of_the_windows_it_was_given(lm: LanguageModel, trace: Trace) -> None:
    alone = lm.trace(trace.tokens[1:2, :4])
    assert alone.live.all()
    for module in lm.paths.modules:
        close(alone.outputs[module], trace.outputs[module][1:2, :4])
        assert not trace.outputs[module].requires_grad
    bare = lm.trace(trace.tokens, trace.live, patterns=False)
    assert bare.patterns is None
    with pytest.raises(ValueError, match=r"no attention patterns, which 0\.attn needs"):
        Attention(lm.paths, Module(0, "attn")).read(bare.embed, bare)
    assert trace.n_live == int(trace.live.sum())


def test_splicing_in_what_is_there_changes_nothing(lm: LanguageModel, trace: Trace) -> None:
    reads: dict[Module, Tensor] = {}

    def identity(module: Module, read: Tensor, wrote: Tensor) -> Tensor:
        reads[module] = read
        return wrote

    wrote = lm.splice(trace, identity, readers=lm.paths.modules)
    assert set(wrote) == set(lm.paths.modules)
    for module, stream in trace.streams(lm.paths.levels):
        close(wrote[module], trace.outputs[module])
        close(reads[module], Direct(lm.paths, module).read(stream, trace))
        if module.kind == "attn":
            close(wrote[module], Attention(lm.paths, module).read(stream, trace))


def test_only_what_is_asked_for_is_read(lm: LanguageModel, trace: Trace) -> None:
    asked, told = {Module(0, "mlp"), Module(1, "attn")}, set()

    def look(module: Module, read: Tensor | None, wrote: Tensor) -> Tensor:
        if read is not None:
            told.add(module)
        return wrote

    lm.splice(trace, look, readers=asked)
    assert told == asked


@pytest.mark.parametrize("module", [Module(0, "attn"), Module(0, "mlp"), Module(1, "attn"), Module(1, "mlp")], ids=str)
def test_splicing_in_zeros_is_zero_ablation(tiny: SimpleNamespace, trace: Trace, module: Module) -> None:
    lm = tiny.lm
    wrote = lm.splice(trace, lambda at, read, out: out * 0 if at == module else out, readers=())
    ours = log_probs(lm.paths.logits(trace.embed + sum(wrote.values(), torch.zeros(()))))
    theirs = hugging_face(tiny, trace.tokens, ablated=module)
    assert (theirs - hugging_face(tiny, trace.tokens)).abs().max() > 1e-2
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_gradients_flow_through_the_model_into_what_is_spliced_in(lm: LanguageModel, trace: Trace) -> None:
    direction = torch.linspace(-1, 2, lm.paths.d_model, dtype=torch.float64)

    def last_output(amount: Tensor) -> Tensor:
        def replace_first(module: Module, read: None, wrote: Tensor) -> Tensor:
            return wrote + amount * direction if module == Module(0, "attn") else wrote

        wrote = lm.splice(trace, replace_first, readers=())
        return wrote[lm.paths.modules[-1]].square().sum()

    amount = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(last_output(amount), amount)
    step = 1e-3  # coarse: Llama's live attention patterns are rounded to float32
    with torch.no_grad():
        difference = (last_output(amount + step) - last_output(amount - step)) / (2 * step)
    assert gradient.abs() > 1e-3
    torch.testing.assert_close(gradient, difference, rtol=1e-2, atol=1e-4)
    assert not any(p.requires_grad or p.grad is not None for p in lm.bridge.parameters())


# what is refused


def blocks(*parts: str, norm: str | None = "LN") -> SimpleNamespace:
    """A bridge of one whole layer and one with these parts."""
    layers = [SimpleNamespace(**dict.fromkeys(names)) for names in (("attn", "mlp"), parts)]
    return SimpleNamespace(blocks=layers, cfg=SimpleNamespace(normalization_type=norm))


def test_unsupported_facts_are_named() -> None:
    check_blocks(blocks("attn", "mlp"))
    with pytest.raises(UnsupportedModelError, match="no MLP in layers 1; supported: both in every layer"):
        check_blocks(blocks("attn"))
    with pytest.raises(UnsupportedModelError, match="no attention in layers 1; supported: both in every layer"):
        check_blocks(blocks("mlp"))
    with pytest.raises(UnsupportedModelError, match="normalization_type=None; supported: LN or RMS"):
        check_blocks(blocks("attn", "mlp", norm=None))


def test_paths_that_do_not_reproduce_the_model_are_refused(lm: LanguageModel) -> None:
    check_exact(lm)
    for wrong, what in (
        (replace(lm.paths, b_O=lm.paths.b_O + 1), r"attention output 0\.attn"),
        (replace(lm.paths, W_V=lm.paths.W_V * 1.1), r"attention output 0\.attn"),
        (replace(lm.paths, W_U=lm.paths.W_U * 1.1), "next-token distribution"),
        (replace(lm.paths, centred=not lm.paths.centred), "attention output|next-token"),
    ):
        if what.startswith("attention output|") and lm.paths.centred:
            continue  # a folded LayerNorm model writes centred rows only: its own stream needs no centring
        with pytest.raises(UnsupportedModelError, match=f"do not reproduce the .*({what})"):
            check_exact(LanguageModel(lm.bridge, None, wrong, bos=True))


# a real model


@pytest.fixture(scope="module")
def stories() -> LanguageModel:
    if not STORIES.is_dir():
        pytest.skip(f"no model at {STORIES}")
    return open_model(STORIES, dtype="float32", prepend_bos="auto")


def test_a_real_model_predicts_its_text(stories: LanguageModel) -> None:
    if not TEXT.is_file():
        pytest.skip(f"no text at {TEXT}")
    with TEXT.open() as file:
        texts = [next(iter(json.loads(next(file)).values())) for _ in range(4)]
    losses = []
    for text in texts:
        tokens, live = stories.encode(text)
        assert tokens[0, 0] == stories.tokenizer.bos_token_id
        assert live[0].tolist() == [False] + [True] * (tokens.shape[1] - 1)
        tokens, live = tokens[:, :256], live[:, :256]
        trace = stories.trace(tokens, live)
        logits = stories.paths.logits(trace.stream(stories.paths.modules))
        losses.append(torch.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:]))
    assert torch.stack(losses).mean() < 1.9


def test_a_text_is_traced_as_one_window(stories: LanguageModel) -> None:
    text = "Once upon a time there was a little dog."
    from_text, from_tokens = stories.trace(text), stories.trace(*stories.encode(text))
    assert torch.equal(from_text.tokens, from_tokens.tokens)
    assert torch.equal(from_text.live, from_tokens.live)
    assert not from_text.live[0, 0]
    assert from_text.embed.dtype == torch.float32
    with pytest.raises(ValueError, match="no tokens in the text ''"):
        stories.trace("")


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"model {tmp_path / 'absent'}: no such folder"):
        open_model(tmp_path / "absent", dtype="float32", prepend_bos="auto")
