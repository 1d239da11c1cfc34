"""Open a language model: a Hugging Face directory or name, folded and checked for what the passes rely on."""

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


def open_model(name: str | Path, *, dtype: str, prepend_bos: bool | str, revision: str | None = None) -> LanguageModel:
    """A Hugging Face causal language model by its directory (a Path) or hub name.

    dtype: what the model itself runs in; the suite always computes in float32.
    prepend_bos: whether windows begin with a BOS; "auto": if the tokenizer has one.

    Raises UnsupportedModelError, which says why, where the files are not there or not whole, where TransformerLens does
    not run the model as transformers does, and where the linear paths do not reproduce it.
    """
    try:
        if not isinstance(name, Path):
            use_what_is_here_if_unreachable()
        hf, tokenizer = _load(name, dtype, revision)
        theirs = reference(hf)
        bos = tokenizer.bos_token_id is not None if prepend_bos == "auto" else bool(prepend_bos)
        with _from_elsewhere(f"TransformerLens cannot run {type(hf).__name__}"):
            model = wrap(_bridge(name, hf, tokenizer), tokenizer, bos=bos, dtype=torch.float32)
            check_faithful(model, theirs)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"model {name}: {error}") from error
    return model


def _load(name: str | Path, dtype: str, revision: str | None) -> tuple[Any, Any]:
    """The model as transformers runs it, and its tokenizer."""
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
            str(name), hf_model=hf, tokenizer=tokenizer, device="cpu", dtype=hf.dtype
        )


def wrap(bridge: Any, tokenizer: Any, *, bos: bool, dtype: torch.dtype) -> LanguageModel:
    """Fold a bridge in place, take the weights of its linear paths in `dtype`, and check that they reproduce it."""
    check_blocks(bridge)
    cap = _logit_cap(bridge.cfg)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bridge.enable_compatibility_mode(
            no_processing=False,
            fold_ln=True,
            center_writing_weights=True,
            center_unembed=cap is None,
            fold_value_biases=True,
            refactor_factored_attn_matrices=False,
        )
    for module in bridge.modules():  # folding is done; what the mode adds to each run is NaN guards (measured: 1.7x)
        if getattr(module, "compatibility_mode", False):
            module.compatibility_mode = False
    model = LanguageModel(bridge, tokenizer, _paths(bridge, dtype, cap), bos=bos)
    check_exact(model)
    return model


def _paths(bridge: Any, dtype: torch.dtype, logit_cap: float | None) -> LinearPaths:
    cfg = bridge.cfg
    W_V, W_O = bridge.W_V.detach().to(dtype), bridge.W_O.detach().to(dtype)
    n_layers, d_model = W_V.shape[0], W_V.shape[2]
    b_O = _bias(bridge, "b_O", W_O.new_zeros(n_layers, d_model))
    b_V = _bias(bridge, "b_V", W_V.new_zeros(n_layers, W_V.shape[1], W_V.shape[3]))
    heads = b_V.repeat_interleave(W_O.shape[1] // W_V.shape[1], dim=1)
    b_O = b_O + torch.einsum("lhr,lhrd->ld", heads, W_O)  # zero where folding moved b_V into b_O already
    if hasattr(bridge.blocks[0], "ln1_post"):
        if b_O.any():
            raise UnsupportedModelError("attention with a bias below a normalisation of its output")
        W_O = W_O * torch.stack([_gain(block.ln1_post, dtype) for block in bridge.blocks])[:, None, None]
    W_U = bridge.W_U.detach().to(dtype)
    gain = _gain(bridge.ln_final, dtype)
    if not bool((gain == 1).all()):  # OLMo 2: TransformerLens folds no normalisation into it
        W_U = W_U * gain[:, None]
    return LinearPaths(
        W_V=W_V,
        W_O=W_O,
        b_O=b_O,
        W_U=W_U,
        b_U=_bias(bridge, "b_U", W_U.new_zeros(W_U.shape[1])),
        centred=cfg.normalization_type.startswith("LN"),
        eps=float(cfg.eps),
        parallel=bool(cfg.parallel_attn_mlp),
        logit_cap=logit_cap,
    )


def _logit_cap(cfg: Any) -> float | None:
    cap = getattr(cfg, "output_logits_soft_cap", None)
    return float(cap) if cap is not None and cap > 0 else None


def _gain(norm: Any, dtype: torch.dtype) -> Float[Tensor, " d_model"]:
    """By what a normalisation multiplies once it has divided by the scale; 1 where that is folded away."""
    weight = getattr(norm, "weight", None)
    if weight is None:
        return torch.ones(1, dtype=dtype)
    return weight.detach().to(dtype) + (1 if norm.uses_weight_offset else 0)


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
