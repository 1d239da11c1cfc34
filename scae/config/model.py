"""`model`: the language model that gets a suite, trained here (tiny), from a folder (local) or by its name (hub)."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from scae.config.active import BY_CONTENT, Neutral
from scae.config.schedule import Decay, Warmup, schedule_problems
from scae.config.section import FromZero, Positive, Rate, Section, Text, Weight

BITSANDBYTES = 'needs the package bitsandbytes; pip install -e ".[gpu]"'
Quantize = Annotated[
    Literal["8bit", "4bit"] | None,
    Neutral(None),
    Field(description="weights of the layers in 8 or 4 bits (bitsandbytes), on a GPU; null: in dtype"),
]


def has_bitsandbytes() -> bool:
    return importlib.util.find_spec("bitsandbytes") is not None


class TinyModel(Section):
    """A Llama-style transformer trained here, on the training split of the data."""

    kind: Literal["tiny"]
    d_model: Positive
    n_layers: Positive
    n_heads: Positive
    d_mlp: Positive
    vocab_size: Annotated[int, Field(ge=260)] = Field(description="byte-level BPE: 256 bytes, 3 specials, merges")
    steps: Positive
    batch_size: Positive
    lr: Rate
    warmup: Warmup
    decay: Decay
    beta1: FromZero = Field(description="AdamW: how much of the running mean of gradients stays in a step")
    beta2: FromZero = Field(description="AdamW: how much of the running mean of their squares stays in a step")
    weight_decay: Annotated[Weight, Neutral(0.0)] = Field(
        description="AdamW: share of a weight that a step takes away, times the rate"
    )
    dtype: Literal["float32", "bfloat16"]

    def problems(self, key: str) -> Iterator[str]:
        if self.d_model % self.n_heads or (self.d_model // self.n_heads) % 2:
            yield (
                f"{key}.n_heads={self.n_heads}: must divide {key}.d_model={self.d_model} into heads of an even size "
                "(rotary positions turn pairs)"
            )
        yield from schedule_problems(key, self.warmup, self.decay)


class LocalModel(Section):
    """Any Hugging Face causal language model directory."""

    kind: Literal["local"]
    path: Annotated[Text, BY_CONTENT] = Field(
        examples=["models/pythia-70m"], description="a folder with config.json and tokenizer.json"
    )
    dtype: Literal["float32", "bfloat16"]
    quantize: Quantize

    def problems(self, key: str) -> Iterator[str]:
        for name in ("config.json", "tokenizer.json"):
            if not os.path.isfile(Path(self.path) / name):
                yield f"{key}.path={self.path}: no {name} there; needed: a Hugging Face model directory"
                break


class HubModel(Section):
    """A model by its Hugging Face name."""

    kind: Literal["hub"]
    name: Text = Field(examples=["EleutherAI/pythia-70m-deduped"])
    revision: Annotated[str | None, Neutral(None)] = Field(
        examples=["step3000"], description="a branch, a tag or a commit of it; null: its newest"
    )
    dtype: Literal["float32", "bfloat16"]
    quantize: Quantize


AnyModel = Annotated[TinyModel | LocalModel | HubModel, Field(discriminator="kind")]
