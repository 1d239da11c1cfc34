"""Open a language model: a Hugging Face directory or name, folded and checked for what the passes rely on."""

import logging
import warnings
from pathlib import Path
from typing import Any

import torch

from scae.failures import some
from scae.lm.borders import visible
from scae.lm.model import LanguageModel
from scae.lm.paths import LinearPaths
from scae.sites import levels
from scae.typing import Tensor

log = logging.getLogger(__name__)
SHOWN = 4  # names in an error


class UnsupportedModelError(ValueError):
    """A model whose modules are not linear in the stream once patterns and scales are frozen; names the fact."""


def open_model(name: str | Path, *, dtype: str, prepend_bos: bool | str, revision: str | None = None) -> LanguageModel:
    """A Hugging Face causal language model by its directory or hub name.

    dtype: what the model itself runs in; the suite always computes in float32.
    prepend_bos: whether windows begin with a BOS; "auto": if the tokenizer has one.
    """
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        opened: Any = AutoModelForCausalLM.from_pretrained(
            name,
            revision=revision,
            dtype=getattr(torch, dtype),
            attn_implementation="eager",
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that all of them are told at once
        )
    except OSError as error:
        raise ValueError(f"model {name} cannot be loaded: {error}") from error
    hf, loaded = opened
    _check_whole(name, loaded)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bridge = TransformerBridge.boot_transformers(
            str(name), hf_model=hf.eval(), tokenizer=tokenizer, device="cpu", dtype=getattr(torch, dtype)
        )
    bos = tokenizer.bos_token_id is not None if prepend_bos == "auto" else bool(prepend_bos)
    return wrap(bridge, tokenizer, bos=bos, dtype=torch.float32)


def _check_whole(name: str | Path, loaded: dict[str, Any]) -> None:
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
        raise UnsupportedModelError(f"model {name}: its weights are not those of its config.json; {'; '.join(wrong)}")


def wrap(bridge: Any, tokenizer: Any, *, bos: bool, dtype: torch.dtype) -> LanguageModel:
    """Fold a bridge in place, take the weights of its linear paths in `dtype`, and check that they reproduce it."""
    check_supported(bridge.cfg)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bridge.enable_compatibility_mode(
            no_processing=False,
            fold_ln=True,
            center_writing_weights=True,
            center_unembed=True,
            fold_value_biases=True,
            refactor_factored_attn_matrices=False,
        )
    for module in bridge.modules():  # folding is done; what the mode adds to each run is NaN guards (measured: 1.7x)
        if getattr(module, "compatibility_mode", False):
            module.compatibility_mode = False
    model = LanguageModel(bridge, tokenizer, _paths(bridge, dtype), bos=bos)
    _check_exact(model)
    return model


def check_supported(cfg: Any) -> None:
    """Raises UnsupportedModelError naming the config fact that rules a model out."""
    facts = {
        "normalization_type": (cfg.normalization_type in ("LN", "LNPre", "RMS", "RMSPre"), "LN or RMS"),
        "use_normalization_before_and_after": (
            not getattr(cfg, "use_normalization_before_and_after", False),
            "False: a normalised output is not linear in the stream",
        ),
        "output_logits_soft_cap": (
            (getattr(cfg, "output_logits_soft_cap", None) or -1.0) <= 0,
            "none: logits are read linearly",
        ),
        "attn_only": (not getattr(cfg, "attn_only", False), "False: every layer needs an MLP"),
    }
    for fact, (supported, allowed) in facts.items():
        if not supported:
            raise UnsupportedModelError(f"this model has {fact}={getattr(cfg, fact)}; supported: {allowed}")


def _paths(bridge: Any, dtype: torch.dtype) -> LinearPaths:
    cfg = bridge.cfg
    W_V, W_O = bridge.W_V.detach().to(dtype), bridge.W_O.detach().to(dtype)
    W_U = bridge.W_U.detach().to(dtype)
    n_layers, d_model = W_V.shape[0], W_V.shape[2]
    b_O = _bias(bridge, "b_O", W_O.new_zeros(n_layers, d_model))
    b_V = _bias(bridge, "b_V", W_V.new_zeros(n_layers, W_V.shape[1], W_V.shape[3]))
    heads = b_V.repeat_interleave(W_O.shape[1] // W_V.shape[1], dim=1)
    return LinearPaths(
        W_V=W_V,
        W_O=W_O,
        b_O=b_O + torch.einsum("lhr,lhrd->ld", heads, W_O),  # zero where folding moved b_V into b_O already
        W_U=W_U,
        b_U=_bias(bridge, "b_U", W_U.new_zeros(W_U.shape[1])),
        centred=cfg.normalization_type.startswith("LN"),
        eps=float(cfg.eps),
        parallel=bool(cfg.parallel_attn_mlp),
    )


def _bias(bridge: Any, name: str, zeros: Tensor) -> Tensor:
    """A bias of the bridge, or zeros where the model has none (the bridge raises for those)."""
    try:
        value = getattr(bridge, name)
    except AttributeError:
        return zeros
    return zeros if value is None else value.detach().to(zeros.dtype)


@torch.no_grad()
def _check_exact(model: LanguageModel) -> None:
    """The linear paths must give the model's own attention outputs and logits on random tokens.

    The suite's exactness rests on this, and no list of config facts can promise it for a model yet to be written.
    """
    paths = model.paths
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(paths.W_U.shape[1], (2, 8), generator=generator).to(model.device)
    trace = model.trace(tokens)
    loose = 3e-2 if next(model.bridge.parameters()).dtype == torch.bfloat16 else 1e-3
    stream = trace.embed
    for level in levels(paths.modules, parallel=paths.parallel):
        for site in level:
            if site.kind == "attn":
                _compare(paths.read(site, stream, trace), trace.outputs[site], f"attention output {site}", loose)
        for site in level:
            stream = stream + trace.outputs[site]
    logits = model.bridge(tokens).to(paths.W_U.dtype).log_softmax(-1)
    _compare(paths.logits(stream).log_softmax(-1), logits, "next-token distribution", loose)


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


def _compare(ours: Tensor, theirs: Tensor, what: str, tolerance: float) -> None:
    error = float((ours - theirs).norm() / theirs.norm())
    if not error < tolerance:
        raise UnsupportedModelError(
            f"frozen linear paths do not reproduce the {what}: relative error {error:.1e}, allowed {tolerance:.0e}: "
            "something in this architecture is not linear once attention patterns and normalisation scales are fixed"
        )
