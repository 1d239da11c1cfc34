"""Weights in 8 or 4 bits, by bitsandbytes, on a GPU.

    4bit    y = x W'^T          W' = W rounded to NF4, in blocks; the product in model.dtype (QLoRA, arXiv:2305.14314)
    8bit    y = round8(x) W'^T  W' = W rounded by row; x by token, too (LLM.int8, arXiv:2208.07339)

All linear maps in the layers are quantised; the embedding, the unembedding and the normalisations stay in model.dtype.
The frozen paths take W' itself, so that with 4 bits they are as exact as the model is linear; with 8, what rounds x is
in the model's run alone, as what bfloat16 rounds is. LLM.int8 multiplies columns apart in which any token is large
(threshold 6): with it, a token has a part in what stands before it. So there is none here, which costs precision where
some dimensions of the stream are much larger than the rest.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from scae.config.errors import ConfigError
from scae.config.model import BITSANDBYTES, has_bitsandbytes
from scae.core.typing import Tensor

log = logging.getLogger(__name__)


def place(quantize: str, device: torch.device | None) -> torch.device:
    """The GPU for quantised weights; raises ConfigError, before anything is loaded, where they cannot be made."""
    if not has_bitsandbytes():
        raise ConfigError(f"model.quantize={quantize}: {BITSANDBYTES}")
    if not torch.cuda.is_available():
        raise ConfigError(f"model.quantize={quantize}: torch finds no GPU on this machine; allowed here: null")
    return torch.device("cuda", torch.cuda.current_device()) if device is None else device


def loading(quantize: str, *, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """What transformers is told: it quantises while it loads."""
    from transformers import BitsAndBytesConfig

    settings: dict[str, dict[str, Any]] = {
        "4bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype},
        "8bit": {"load_in_8bit": True, "llm_int8_threshold": 0.0},
    }
    rounded = "weights and what they multiply are rounded" if quantize == "8bit" else "weights are rounded"
    log.info("model.quantize=%s: %s; nothing is folded into them", quantize, rounded)
    return {"quantization_config": BitsAndBytesConfig(**settings[quantize]), "device_map": {"": device}}


@contextmanager
def readable(*maps: Any) -> Iterator[None]:
    """Inside, the weights of these linear maps (of a bridge) are numbers, also where they are stored packed."""
    packed = {one: one.weight for one in (whole.original_component for whole in maps) if is_packed(one.weight)}
    for one in packed:
        one._parameters["weight"] = torch.nn.Parameter(unpacked(one), requires_grad=False)
    try:
        yield
    finally:
        for one, weight in packed.items():
            one._parameters["weight"] = weight


def is_packed(weight: Tensor) -> bool:
    return not weight.is_floating_point()


def unpacked(linear: Any) -> Tensor:
    """The weight that a quantised map multiplies by."""
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    return dequantize_bnb_weight(linear.weight, getattr(linear, "state", None))
