"""What must be true of a language model before the passes may rely on it, each with the reason where it is not.

No list of architectures can promise it for a model yet to be written, so it is asked of the weights: of the model as
transformers runs it, then of the same model as TransformerLens does, then of the linear paths.
"""

from dataclasses import dataclass
from typing import Any

import torch

from scae.config.errors import ConfigError
from scae.core.failures import some
from scae.core.typing import Float, Int, Stream, Tensor
from scae.lm.borders import visible
from scae.lm.model import LanguageModel
from scae.lm.modules import Module
from scae.lm.paths import Attention, Direct
from scae.lm.trace import Trace

SHOWN = 4  # names in an error
WINDOWS, LENGTH = 2, 8  # random tokens that a model is compared on


class UnsupportedModelError(ConfigError):
    """A model that cannot be opened, or whose modules are not linear in the stream once patterns and scales are frozen;
    names the fact."""


@dataclass(frozen=True)
class Reference:
    """What transformers makes of a few random tokens. streams: the residual stream before each layer, empty where the
    model does not tell."""

    tokens: Int[Tensor, "batch pos"]
    log_probs: Float[Tensor, "batch pos vocab"]
    streams: list[Stream]


def check_config(config: Any, architectures: dict[str, str], runnable: Any) -> None:
    """Raises UnsupportedModelError where config.json alone says that the model is none of ours.

    architectures: the causal language models of transformers, by model_type; runnable: those that TransformerLens runs.
    """
    kind = config.model_type
    if config.is_encoder_decoder:
        raise UnsupportedModelError(f"model_type={kind} is an encoder with a decoder; supported: decoders alone")
    if not getattr(config, "do_layer_norm_before", True):
        raise UnsupportedModelError(
            "do_layer_norm_before=False: the stream itself is normalised after every module; supported: true, modules "
            "that read and write a stream to which they only add"
        )
    if (stored := getattr(config, "quantization_config", None)) is not None:
        method = stored.get("quant_method", "of some kind") if isinstance(stored, dict) else stored.quant_method
        raise UnsupportedModelError(
            f"its weights are stored quantised ({method}); supported: weights in float, which model.quantize=8bit or "
            "4bit quantises when it opens them"
        )
    if kind not in architectures:
        raise UnsupportedModelError(f"transformers has no causal language model of model_type={kind}")
    if architectures[kind] not in runnable and not set(config.architectures or ()) & set(runnable):
        raise UnsupportedModelError(f"TransformerLens does not run {architectures[kind]} (model_type={kind})")


def check_whole(loaded: dict[str, Any]) -> None:
    """Every weight that the config asks for is in the files, in its shape, and no other: transformers would draw what
    is missing at random, and go on."""
    mismatched = [key[0] if isinstance(key, tuple) else key for key in loaded["mismatched_keys"]]
    kinds = (
        ("missing", loaded["missing_keys"]),
        ("of another shape", mismatched),
        ("without a place in the model", loaded["unexpected_keys"]),
    )
    wrong = [f"{what}: {some(sorted(keys), SHOWN)}" for what, keys in kinds if keys]
    if wrong:
        raise UnsupportedModelError(f"its weights are not those of its config.json; {'; '.join(wrong)}")


def check_weights(hf: Any, tokenizer: Any) -> None:
    """Every weight is finite, and every token that the tokenizer can make has an embedding."""
    broken = [name for name, weight in hf.named_parameters() if not bool(weight.isfinite().all())]
    if broken:
        raise UnsupportedModelError(f"weights with NaN or infinity: {some(broken, SHOWN)}")
    largest = max(tokenizer.get_vocab().values())
    rows = hf.get_input_embeddings().weight.shape[0]
    if largest >= rows:
        raise UnsupportedModelError(
            f"its tokenizer makes tokens up to {largest}, its vocabulary ends at {rows - 1}: they are not of one model"
        )


@torch.no_grad()
def reference(hf: Any) -> Reference:
    """Run the model as transformers does; raises UnsupportedModelError where a prediction sees what it predicts."""
    rows = hf.get_input_embeddings().weight.shape[0]
    tokens = torch.randint(rows, (WINDOWS, LENGTH), generator=torch.Generator().manual_seed(0)).to(hf.device)
    out = hf(tokens, output_hidden_states=True)
    other = tokens.clone()
    other[:, -1] = (other[:, -1] + 1) % rows
    before, after = (logits[:, :-1].float() for logits in (out.logits, hf(other).logits))
    if (error := _relative(after, before)) > 1e-3:
        raise UnsupportedModelError(
            f"its predictions change by {error:.1e} with the token that comes next: it is no causal language model"
        )
    return Reference(tokens, out.logits.log_softmax(-1), list(getattr(out, "hidden_states", None) or ())[:-1])


def check_blocks(bridge: Any) -> None:
    """Raises UnsupportedModelError naming the fact of the architecture that rules a model out."""
    for kind, what in (("attn", "attention"), ("mlp", "MLP")):
        without = [str(layer) for layer, block in enumerate(bridge.blocks) if not hasattr(block, kind)]
        if without:
            raise UnsupportedModelError(f"no {what} in layers {some(without, SHOWN)}; supported: both in every layer")
    found = bridge.cfg.normalization_type
    if found not in ("LN", "LNPre", "RMS", "RMSPre"):
        raise UnsupportedModelError(f"this model has normalization_type={found}; supported: LN or RMS")


@torch.no_grad()
def check_exact(model: LanguageModel) -> None:
    """The linear paths must give the model's own attention outputs, MLP inputs and logits on random tokens."""
    paths = model.paths
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(paths.W_U.shape[1], (WINDOWS, LENGTH), generator=generator).to(model.device)
    trace = model.trace(tokens)
    loose = _tolerance(model)
    truth = _read_and_written(model, trace)
    for module, stream in trace.streams(paths.levels):
        path = Attention(paths, module) if module.kind == "attn" else Direct(paths, module)
        what = f"attention output {module}" if module.kind == "attn" else f"input of {module}"
        _compare(path.read(stream, trace), truth[module], what, loose)
    logits = model.bridge(tokens).to(paths.W_U.dtype).log_softmax(-1)
    ours = paths.logits(trace.stream(paths.modules)).log_softmax(-1)
    _compare(ours, logits, "next-token distribution", loose)


def _read_and_written(model: LanguageModel, trace: Trace) -> dict[Module, Stream]:
    """What every MLP reads and every attention writes, as the model runs."""
    seen: dict[Module, Stream] = {}

    def look(module: Module, read: Stream | None, wrote: Stream) -> Stream:
        seen[module] = wrote if read is None else read
        return wrote

    model.splice(trace, look, readers=[module for module in model.paths.modules if module.kind == "mlp"])
    return seen


@torch.no_grad()
def check_faithful(model: LanguageModel, theirs: Reference) -> None:
    """The folded model must predict what transformers does; says how far it does not, and from which layer on."""
    paths, loose = model.paths, _tolerance(model)
    trace = model.trace(theirs.tokens.to(model.device))
    ours = paths.logits(trace.stream(paths.modules)).log_softmax(-1)
    error = _relative(ours, theirs.log_probs.to(ours))
    if error < loose:
        return
    before = {module.layer: stream for module, stream in trace.streams(paths.levels) if module.kind == "attn"}
    streams = ((layer, paths.centre(stream.to(ours))) for layer, stream in enumerate(theirs.streams))
    apart = [layer for layer, stream in streams if not _relative(paths.centre(before[layer]), stream) < loose]
    where = "after the last layer" if not apart else f"in layer {apart[0] - 1}" if apart[0] else "in the embedding"
    raise UnsupportedModelError(
        f"TransformerLens does not run this architecture as transformers does: the log-probabilities differ by a "
        f"relative {error:.1e}, allowed {loose:.0e}" + (f"; they part {where}" if theirs.streams else "")
    )


@torch.no_grad()
def check_borders(model: LanguageModel) -> None:
    """Raises UnsupportedModelError where hiding other documents does not change the model's attention patterns."""
    documents = torch.tensor([[0, 1, 1, 1, 2, 2, 3, 3]], device=model.device)
    trace = model.trace(documents, documents=documents)
    hidden = ~visible(documents)[:, None]
    assert trace.patterns is not None
    crossing = [layer for layer, pattern in trace.patterns.items() if bool(pattern.masked_select(hidden).any())]
    if crossing:
        raise UnsupportedModelError(
            f"data.attend_across=false: the attention of layers {crossing} crosses the borders of documents all the "
            "same, its scores cannot be changed in this architecture; allowed: true"
        )


def _tolerance(model: LanguageModel) -> float:
    """What rounds in the model's run and not on the paths: bfloat16, and 8-bit weights, which round what they read."""
    rounding = {torch.bfloat16, torch.int8}
    return 3e-2 if rounding & {parameter.dtype for parameter in model.bridge.parameters()} else 1e-3


def _relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def _compare(ours: Tensor, theirs: Tensor, what: str, tolerance: float) -> None:
    error = _relative(ours, theirs)
    if not error < tolerance:
        raise UnsupportedModelError(
            f"frozen linear paths do not reproduce the {what}: relative error {error:.1e}, allowed {tolerance:.0e}: "
            "something in this architecture is not linear once attention patterns and normalisation scales are fixed"
        )
