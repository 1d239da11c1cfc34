"""EleutherAI's sparsify: `cfg.json` and `sae.safetensors` (github.com/EleutherAI/sparsify, sparse_coder.py).

    encoder.weight [F, d], encoder.bias [F], W_dec [F, d], b_dec [d]

Its activation is the k largest of ReLU; all that is positive is k = F. It has no threshold.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from scae.dictionaries import Rule
from scae.interop.linear import Linear, files

WEIGHTS = "sae.safetensors"


def write(one: Linear, folder: Path, card: dict[str, Any]) -> None:
    """Raises ValueError where there is a threshold. card: what is known of the model, the hooks and the text."""
    if bool((one.thresholds > 0).any()):
        raise ValueError("sparsify has no thresholds; allowed for them: --format saelens")
    d_in, d_out = one.W_enc.shape[1], one.W_dec.shape[1]
    if d_in != d_out:
        raise ValueError(f"sparsify reads and writes in one width; found {d_in} and {d_out}")
    tensors = {"encoder.weight": one.W_enc, "encoder.bias": one.b_enc, "W_dec": one.W_dec, "b_dec": one.b_dec}
    save_file({name: value.float().contiguous() for name, value in tensors.items()}, folder / WEIGHTS)
    config = {
        "activation": "topk",
        "expansion_factor": max(1, one.n_features // d_in),
        "normalize_decoder": False,  # rows of another norm than 1 stay as they are
        "num_latents": one.n_features,
        "k": one.n_features if one.rule.k is None else one.rule.k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": one.transcoder,
        "d_in": d_in,
    }
    (folder / "cfg.json").write_text(json.dumps(config | {"scae": card}, indent=2) + "\n")


def read(folder: Path) -> Linear:
    """Raises ValueError where the file holds something that no dictionary here computes."""
    config, tensors = files(folder, WEIGHTS, "encoder.weight", "encoder.bias", "W_dec", "b_dec")
    if "W_skip" in tensors:
        raise ValueError(f"{folder}: a skip connection (W_skip); allowed: skip_connection=false")
    if config.get("activation", "topk") != "topk":
        raise ValueError(f"{folder}: activation={config['activation']}; allowed: topk")
    k = None if config["k"] >= len(tensors["encoder.bias"]) else config["k"]
    return Linear(
        tensors["encoder.weight"],
        tensors["encoder.bias"],
        tensors["W_dec"],
        tensors["b_dec"],
        bool(config.get("transcode", False)),
        Rule(k, torch.zeros(())),
    )
