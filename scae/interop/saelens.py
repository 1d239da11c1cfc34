"""SAELens: `cfg.json` and `sae_weights.safetensors` (github.com/decoderesearch/SAELens, saes/*.py).

    W_enc [d_in, F], b_enc [F], W_dec [F, d_out], b_dec [d_out], threshold [F]

| rule               | autoencoder | transcoder          |
|--------------------|-------------|---------------------|
| whatever is > 0    | standard    | transcoder          |
| above a threshold  | jumprelu    | jumprelu_transcoder |
| the k largest      | topk        | topk, see below     |

There is no TopK transcoder in it. But `topk` with `apply_b_dec_to_input: false` computes what one does; `hook_name_out`
says what is reconstructed, which the library then does not look at.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from scae.dictionaries import Rule
from scae.interop.linear import Linear, files

WEIGHTS = "sae_weights.safetensors"
VERSION = "6.54.12"
"""Of the library whose files these are. Without one of at least 6.0, it takes a file for one of an older schema."""
KEEP_POSITIVE, KEEP_LARGEST = ("standard", "transcoder"), ("topk",)
KEEP_ABOVE = ("jumprelu", "jumprelu_transcoder")


def write(one: Linear, folder: Path, card: dict[str, Any]) -> None:
    """card: what is known of the model, the hooks and the text."""
    architecture, tensors = "topk", {}
    if one.rule.k is None:
        above = bool((one.thresholds > 0).any())
        architecture = (KEEP_ABOVE if above else KEEP_POSITIVE)[one.transcoder]
        tensors = {"threshold": one.thresholds} if above else {}
    tensors |= {"W_enc": one.W_enc.T, "b_enc": one.b_enc, "W_dec": one.W_dec, "b_dec": one.b_dec}
    save_file({name: value.float().contiguous() for name, value in tensors.items()}, folder / WEIGHTS)
    config: dict[str, Any] = {
        "architecture": architecture,
        "d_in": one.W_enc.shape[1],
        "d_sae": one.n_features,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": not one.transcoder,
        "normalize_activations": "none",
        "reshape_activations": "none",
    }
    if one.rule.k is not None:
        config |= {"k": one.rule.k, "rescale_acts_by_decoder_norm": False}
    if one.transcoder:
        config["d_out"] = one.W_dec.shape[1]
    versions = {"sae_lens_version": VERSION, "sae_lens_training_version": None}
    (folder / "cfg.json").write_text(json.dumps(config | {"metadata": versions | card}, indent=2) + "\n")


def read(folder: Path) -> Linear:
    """Raises ValueError where the file holds something that no dictionary here computes."""
    config, tensors = files(folder, WEIGHTS, "W_enc", "b_enc", "W_dec", "b_dec")
    architecture = config.get("architecture", "standard")
    known = KEEP_POSITIVE + KEEP_LARGEST + KEEP_ABOVE
    if architecture not in known:
        raise ValueError(f"{folder}: architecture {architecture}; allowed: {', '.join(known)}")
    for key in ("normalize_activations", "reshape_activations"):
        if config.get(key, "none") != "none":
            raise ValueError(f"{folder}: {key}={config[key]}; allowed: none")
    if architecture in KEEP_ABOVE and "threshold" not in tensors:
        raise ValueError(f"{folder}: architecture {architecture} without a threshold")
    W_enc, b_enc, W_dec, b_dec = tensors["W_enc"].T, tensors["b_enc"], tensors["W_dec"], tensors["b_dec"]
    if config.get("rescale_acts_by_decoder_norm", False):  # features are chosen as if their decoder rows had norm 1
        norm = W_dec.norm(dim=1)
        W_enc, b_enc, W_dec = W_enc * norm[:, None], b_enc * norm, W_dec / norm[:, None]
    transcoder = "transcoder" in architecture or "hook_name_out" in config.get("metadata", {})
    if not transcoder and not config.get("apply_b_dec_to_input", True):
        b_enc = b_enc + W_enc @ b_dec  # ours subtracts b_dec
    rule = Rule(config["k"] if architecture in KEEP_LARGEST else None, tensors.get("threshold", torch.zeros(())))
    return Linear(W_enc.contiguous(), b_enc, W_dec, b_dec, transcoder, rule)
