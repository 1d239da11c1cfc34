"""`model`: the language model that gets a suite, trained here (tiny), from a folder (local) or by its name (hub)."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from scae.config.section import Positive, Rate, Section, Text


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
    dtype: Literal["float32", "bfloat16"]

    def problems(self, key: str) -> Iterator[str]:
        if self.d_model % self.n_heads or (self.d_model // self.n_heads) % 2:
            yield (
                f"{key}.n_heads={self.n_heads}: must divide {key}.d_model={self.d_model} into heads of an even size "
                "(rotary positions turn pairs)"
            )


class LocalModel(Section):
    """Any Hugging Face causal language model directory."""

    kind: Literal["local"]
    path: Text = Field(examples=["models/pythia-70m"], description="a folder with config.json and tokenizer.json")
    dtype: Literal["float32", "bfloat16"]

    def problems(self, key: str) -> Iterator[str]:
        for name in ("config.json", "tokenizer.json"):
            if not os.path.isfile(Path(self.path) / name):
                yield f"{key}.path={self.path}: no {name} there; needed: a Hugging Face model directory"
                break


class HubModel(Section):
    """A model by its Hugging Face name."""

    kind: Literal["hub"]
    name: Text = Field(examples=["EleutherAI/pythia-70m-deduped"])
    revision: str | None
    dtype: Literal["float32", "bfloat16"]


AnyModel = Annotated[TinyModel | LocalModel | HubModel, Field(discriminator="kind")]
