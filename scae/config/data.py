"""`data`: which text, and how it becomes windows of tokens."""

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from scae.config.active import BY_CONTENT, Neutral
from scae.config.errors import ConfigError, shortened
from scae.config.section import Count, Fraction, Positive, Section, Text, distinct

Separator = Literal["none", "bos", "eos"]


class Windows(Section):
    """How text becomes windows of tokens."""

    context: Annotated[int, Field(ge=4)] = Field(description="tokens a window, the prepended BOS included")
    packing: Literal["packed", "document"]
    prepend_bos: Literal["auto"] | bool
    separator: Literal["auto", "none", "bos", "eos"] = Field(
        description="the token between packed documents; auto: what the model predicts text best with"
    )
    attend_across: Annotated[bool, Neutral(True)] = Field(
        description="whether attention may cross the border of two packed documents"
    )
    heldout: Fraction = Field(description="share of the documents that only evaluation sees")
    max_tokens: Annotated[Positive | None, Neutral(None)] = Field(description="stop after this many tokens; null: all")
    exclude_tokens: Annotated[list[Count], AfterValidator(distinct), AfterValidator(sorted), Neutral([])] = Field(
        description="ids of tokens that are treated like separators: the model reads them, and nothing is replaced, "
        "trained or scored where they stand"
    )
    skip_first: Annotated[Count, Neutral(0)] = Field(
        description="positions at the beginning of every window, after its BOS, that are treated likewise"
    )

    @property
    def settled_separator(self) -> Separator:
        """What stands between packed documents; raises ValueError where that is still to be measured."""
        if self.separator == "auto":
            raise ValueError(
                "data.separator=auto is settled before text is cut in windows: see scae.experiment.separator"
            )
        return self.separator

    def problems(self, key: str) -> Iterator[str]:
        if self.max_tokens is not None and self.max_tokens < self.context:
            yield (
                f"{key}.max_tokens={self.max_tokens}: less than one window; needed: at least "
                f"{key}.context={self.context}"
            )
        if self.skip_first + 3 > self.context:
            yield (
                f"{key}.skip_first={self.skip_first}: leaves nothing of {key}.context={self.context} to score; "
                f"allowed: 0 to {self.context - 3}"
            )
        if self.packing == "document" and self.separator not in ("auto", "none"):
            yield (
                f"{key}.separator={self.separator}: {key}.packing=document puts one document in a window, nothing "
                "between two; allowed: auto, none"
            )


class StdlibData(Windows):
    kind: Literal["stdlib"]


class TextData(Windows):
    kind: Literal["text"]
    path: Annotated[Text | list[Text], BY_CONTENT] = Field(
        examples=["texts"], description="files, folders, globs of .txt, .jsonl, .parquet"
    )
    field: str = Field(description="the column of .jsonl and .parquet that holds the text")

    def problems(self, key: str) -> Iterator[str]:
        yield from super().problems(key)
        try:
            text_files(self.path)
        except ConfigError as error:
            yield str(error)


class HubData(Windows):
    kind: Literal["hub"]
    name: Text = Field(examples=["NeelNanda/pile-10k"])
    config: str | None
    split: str
    field: str
    revision: Annotated[str | None, Neutral(None)] = Field(
        description="commit, tag or branch of the dataset; null: its main branch, which may change"
    )
    streaming: Annotated[bool, Neutral(True)] = Field(
        description="take documents as they arrive, until data.max_tokens is reached; false: download the dataset first"
    )
    shuffle_buffer: Annotated[Count, Neutral(0)] = Field(
        description="documents among which each next one is drawn, files in random order too; 0: as they come"
    )

    def problems(self, key: str) -> Iterator[str]:
        yield from super().problems(key)
        if self.streaming and self.max_tokens is None:
            yield (
                f"{key}.max_tokens=null: a stream is read until it has given {key}.max_tokens tokens; needed: a "
                f"number, or {key}.streaming=false"
            )


AnyData = Annotated[StdlibData | TextData | HubData, Field(discriminator="kind")]


def text_files(path: str | list[str]) -> list[Path]:
    """The text files that `data.path` names, in a fixed order, each once, however many ways lead to it; raises
    ConfigError where there is nothing to read."""
    found: list[Path] = []
    for pattern in [path] if isinstance(path, str) else path:
        wanted = os.path.expanduser(pattern)
        matches = [wanted] if os.path.exists(wanted) else glob.glob(wanted, recursive=True)
        if not matches:
            raise ConfigError(f"data.path={shortened(pattern)}: no such file, folder or glob")
        for match in map(Path, matches):
            found += sorted(match.rglob("*")) if match.is_dir() else [match]
    readable = (file for file in found if file.suffix.lower() in (".txt", ".jsonl", ".parquet") and file.is_file())
    files = sorted({file.resolve() for file in readable})
    if not files:
        raise ConfigError(f"data.path={path}: no .txt, .jsonl or .parquet file there")
    for file in files:
        if not os.access(file, os.R_OK):
            raise ConfigError(f"data.path: {file} cannot be read: permission denied")
    if not any(file.stat().st_size for file in files):
        raise ConfigError(f"data.path={path}: an empty corpus, every one of its {len(files)} files has 0 bytes")
    return files
