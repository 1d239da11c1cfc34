"""Open a language model: a Hugging Face directory or name, folded where its weights can be written, and checked for
what the passes rely on."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from scae.config.errors import ConfigError
from scae.core.hub import use_what_is_here_if_unreachable
from scae.core.typing import Float, Tensor
from scae.lm.checks import (
    UnsupportedModelError,
    check_blocks,
    check_config,
    check_exact,
    check_faithful,
    check_weights,
    check_whole,
    reference,
)
from scae.lm.model import LanguageModel
from scae.lm.paths import LinearPaths
from scae.lm.quantized import loading, place, readable


def open_model(
    name: str | Path,
    *,
    dtype: str,
    prepend_bos: bool | str,
    revision: str | None = None,
    quantize: str | None = None,
    device: torch.device | None = None,
) -> LanguageModel:
    """A Hugging Face causal language model by its directory (a Path) or hub name.

    dtype: what the model itself runs in; the suite always computes in float32.
    prepend_bos: whether windows begin with a BOS; "auto": if the tokenizer has one.
    quantize: "8bit" or "4bit" weights (`scae.lm.quantized`), which stay where they are made; device: the GPU for them,
    None for the current one. Any other model is opened on the CPU and moved by whoever uses it.

    Raises UnsupportedModelError, which says why, where the files are not there or not whole, where TransformerLens does
    not run the model as transformers does, and where the linear paths do not reproduce it.
    """
    how = {} if quantize is None else loading(quantize, dtype=getattr(torch, dtype), device=place(quantize, device))
    try:
        if not isinstance(name, Path):
            use_what_is_here_if_unreachable()
        hf, tokenizer = _load(name, dtype, revision, how)
        with _from_elsewhere("transformers cannot run it"):
            theirs = reference(hf)
        bos = tokenizer.bos_token_id is not None if prepend_bos == "auto" else bool(prepend_bos)
        what = f"TransformerLens cannot run {type(hf).__name__}"
        if quantize is not None:
            what += (
                f" with model.quantize={quantize}, allowed: null (it takes no packed weight apart, such as a joint one "
                "of queries, keys and values)"
            )
        with _from_elsewhere(what):
            made = wrap if quantize is None else wrap_as_it_is
            model = made(_bridge(name, hf, tokenizer), tokenizer, bos=bos, dtype=torch.float32)
            check_faithful(model, theirs)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"model {name}: {error}") from error
    return model


def _load(name: str | Path, dtype: str, revision: str | None, how: dict[str, Any]) -> tuple[Any, Any]:
    """The model as transformers runs it, and its tokenizer. how: more of what transformers is to know."""
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    from transformers.utils.logging import disable_progress_bar

    if isinstance(name, Path) and not name.is_dir():
        raise UnsupportedModelError("no such folder")
    disable_progress_bar()
    source: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    with _from_elsewhere("cannot be loaded"):
        config = AutoConfig.from_pretrained(name, **source)
        check_config(config, dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES), SUPPORTED_ARCHITECTURES)
        tokenizer = AutoTokenizer.from_pretrained(name, **source)
        opened: Any = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=getattr(torch, dtype),
            attn_implementation="eager",
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that all of them are told at once
            **source,
            **how,
        )
    hf, loaded = opened
    check_whole(loaded)
    check_weights(hf, tokenizer)
    return hf.eval(), tokenizer


def _bridge(name: str | Path, hf: Any, tokenizer: Any) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TransformerBridge.boot_transformers(
            str(name), hf_model=hf, tokenizer=tokenizer, device=str(hf.device), dtype=hf.dtype
        )


def wrap(bridge: Any, tokenizer: Any, *, bos: bool, dtype: torch.dtype) -> LanguageModel:
    """Fold a bridge in place, take the weights of its linear paths in `dtype`, and check that they reproduce it."""
    check_blocks(bridge)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bridge.enable_compatibility_mode(
            no_processing=False,
            fold_ln=True,
            center_writing_weights=True,
            center_unembed=_logit_cap(bridge.cfg) is None,
            fold_value_biases=True,
            refactor_factored_attn_matrices=False,
        )
    for module in bridge.modules():  # folding is done; what the mode adds to each run is NaN guards (measured: 1.7x)
        if getattr(module, "compatibility_mode", False):
            module.compatibility_mode = False
    return wrap_as_it_is(bridge, tokenizer, bos=bos, dtype=dtype)


def wrap_as_it_is(bridge: Any, tokenizer: Any, *, bos: bool, dtype: torch.dtype) -> LanguageModel:
    """The same without folding, for weights that cannot be written: the paths alone take the normalisations in.

    Modules then write what they always wrote. Where LayerNorm subtracts it from whatever is read (P), the mean over
    d_model is in their outputs, and dictionaries reconstruct it too.
    """
    check_blocks(bridge)
    model = LanguageModel(bridge, tokenizer, _paths(bridge, dtype), bos=bos)
    check_exact(model)
    return model


def _paths(bridge: Any, dtype: torch.dtype) -> LinearPaths:
    """With y = gain * x / scale + shift of every normalisation, W (gain * x) = (gain * W) x, and W shift is a bias."""
    cfg, blocks = bridge.cfg, bridge.blocks
    W_V, W_O = (torch.stack([_read(block.attn, name, dtype) for block in blocks]) for name in ("W_V", "W_O"))
    n_layers, d_model = W_V.shape[0], W_V.shape[2]
    b_O = _bias(bridge, "b_O", W_O.new_zeros(n_layers, d_model))
    b_V = _bias(bridge, "b_V", W_V.new_zeros(n_layers, W_V.shape[1], W_V.shape[3]))
    shifts = torch.stack([_shift(block, "ln1", b_O[0]) for block in blocks])
    if shifts.any():  # one that is folded is 0, as its gain is 1
        b_V = b_V + torch.einsum("ld,lhdr->lhr", shifts, W_V)
    W_V = _scaled(W_V, torch.stack([_gain(block, "ln1", b_O[0]) for block in blocks])[:, None])
    heads = b_V.repeat_interleave(W_O.shape[1] // W_V.shape[1], dim=1)
    b_O = b_O + torch.einsum("lhr,lhrd->ld", heads, W_O)  # zero where folding moved b_V into b_O already
    if hasattr(blocks[0], "ln1_post"):
        if b_O.any():
            raise UnsupportedModelError("attention with a bias below a normalisation of its output")
        W_O = W_O * torch.stack([_gain(block, "ln1_post", b_O[0]) for block in blocks])[:, None, None]
    W_U = bridge.W_U.detach().to(dtype)
    b_U = _bias(bridge, "b_U", W_U.new_zeros(W_U.shape[1]))
    shift = _shift(bridge, "ln_final", b_O[0])
    if shift.any():
        b_U = b_U + shift @ W_U
    return LinearPaths(
        W_V=W_V,
        W_O=W_O,
        b_O=b_O,
        W_U=_scaled(W_U, _gain(bridge, "ln_final", b_O[0])),  # OLMo 2: TransformerLens folds none into it
        b_U=b_U,
        centred=cfg.normalization_type.startswith("LN"),
        eps=float(cfg.eps),
        parallel=bool(cfg.parallel_attn_mlp),
        logit_cap=_logit_cap(cfg),
    )


def _read(attn: Any, name: str, dtype: torch.dtype) -> Tensor:
    """A weight of an attention by head, as numbers."""
    with readable(attn.v, attn.o):
        return getattr(attn, name).detach().to(dtype)


def _scaled(weights: Float[Tensor, "*more d_model r"], gain: Float[Tensor, "*many d_model"]) -> Tensor:
    """Weights that read what a normalisation has multiplied by `gain`, without it."""
    return weights if bool((gain == 1).all()) else weights * gain[..., None]


def _logit_cap(cfg: Any) -> float | None:
    cap = getattr(cfg, "output_logits_soft_cap", None)
    return float(cap) if cap is not None and cap > 0 else None


def _gain(parent: Any, name: str, like: Float[Tensor, " d_model"]) -> Float[Tensor, " d_model"]:
    """By what a normalisation multiplies once it has divided by the scale; 1 where that is folded away, or none is."""
    norm = getattr(parent, name, None)
    weight = getattr(norm, "weight", None)
    if norm is None or weight is None:
        return torch.ones_like(like)
    return weight.detach().to(like) + (1 if norm.uses_weight_offset else 0)


def _shift(parent: Any, name: str, like: Float[Tensor, " d_model"]) -> Float[Tensor, " d_model"]:
    """What a normalisation adds in the end."""
    norm = getattr(parent, name, None)
    bias = None if norm is None else getattr(norm.original_component, "bias", None)
    return torch.zeros_like(like) if bias is None else bias.detach().to(like)


def _bias(bridge: Any, name: str, zeros: Tensor) -> Tensor:
    """A bias of the bridge, or zeros where the model has none (the bridge raises for those)."""
    try:
        value = getattr(bridge, name)
    except AttributeError:
        return zeros
    return zeros if value is None else value.detach().to(zeros.dtype)


@contextmanager
def _from_elsewhere(what: str) -> Iterator[None]:
    """What other packages raise, whatever it is, as one error: damaged files and foreign architectures have no end."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        text = str(error).strip().partition("\n")[0] or "no reason given"
        kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
        raise UnsupportedModelError(f"{what}: {kind}{text}") from error
