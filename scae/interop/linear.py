"""A dictionary as other libraries have it: plain weights in the unit of the stream.

    pre = W_enc (x - b_dec) + b_enc   an autoencoder;      W_enc x + b_enc   a transcoder
    f = pre where it is above a threshold, and among the k largest of its token where there is a k
    yhat = f W_dec + b_dec

The units of a dictionary are folded into its weights (`scae.dictionaries.folding`). What no other format has is left
out, and said by whoever writes: ceilings. What cannot be left out is refused: units by token, encoders that are not
linear.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from scae.core.typing import Float, Tensor
from scae.dictionaries import Dictionary, Rule, Shape, create
from scae.dictionaries.folding import on_the_stream


@dataclass(frozen=True)
class Linear:
    """W_enc: `[feature, d_in]`; W_dec: `[feature, d_out]`; rule: what becomes an activation."""

    W_enc: Float[Tensor, "feature d_in"]
    b_enc: Float[Tensor, " feature"]
    W_dec: Float[Tensor, "feature d_out"]
    b_dec: Float[Tensor, " d_out"]
    transcoder: bool
    rule: Rule

    @classmethod
    def of(cls, dictionary: Dictionary) -> "Linear":
        """Without its ceilings, which no other format has. Raises ValueError where it is not linear."""
        own = on_the_stream(dictionary)
        W_enc, b_enc, W_dec, b_dec = (
            each.detach() for each in (own.encoder.W, own.encoder.b, own.decoder.W, own.decoder.b)
        )
        return cls(W_enc, b_enc, W_dec, b_dec, own.transcoder, own.activation.rule())

    @property
    def n_features(self) -> int:
        return len(self.b_enc)

    def dictionary(self, spec: Mapping[str, Any]) -> Dictionary:
        """A dictionary of this type and these settings, without units, that computes this; raises ValueError where its
        type does something else with pre-activations."""
        shape = Shape(self.n_features, self.W_enc.shape[1], self.W_dec.shape[1], self.transcoder)
        made = create(shape, **spec).to(self.W_enc.dtype)
        with torch.no_grad():
            for parameter, value in zip(
                (made.encoder.W, made.encoder.b, made.decoder.W, made.decoder.b),
                (self.W_enc, self.b_enc, self.W_dec, self.b_dec),
                strict=True,
            ):
                parameter.copy_(value)
        made.activation.follow(self.rule)
        return made

    @property
    def thresholds(self) -> Float[Tensor, " feature"]:
        """One a feature."""
        return self.rule.threshold.to(self.b_enc).expand(self.n_features).contiguous()


def files(folder: Path, weights: str, *needed: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """`cfg.json` and the tensors of a folder, those that are `needed` among them; raises ValueError naming the file."""
    try:
        config = json.loads((folder / "cfg.json").read_text())
    except ValueError as error:
        raise ValueError(f"{folder / 'cfg.json'} is damaged: {error}") from error
    try:
        tensors = load_file(folder / weights)
    except SafetensorError as error:
        raise ValueError(f"{folder / weights} is damaged: {error}") from error
    if absent := [name for name in needed if name not in tensors]:
        raise ValueError(f"{folder / weights} holds no {', '.join(absent)}; it has {', '.join(sorted(tensors))}")
    return config, {name: value.float() for name, value in tensors.items()}
