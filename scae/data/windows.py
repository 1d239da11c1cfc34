"""Windows of tokens, the unit of training and evaluation, and the batches that are made of them.

A position is live where it holds text that counts: no prepended BOS, no separator between documents, no padding, none
of the tokens and none of the first positions that the configuration leaves out. Where attention may not cross the
border of two documents, every position also has the number of its document.

Axes: window (of the corpus), batch (windows of one step), pos (position in a window).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, Int32, Int64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scae.core.whole_files import write
from scae.lm import LanguageModel, Trace

_FORMAT = "scae.token_windows.2"
_COUNTED = 4096  # windows whose positions are looked at together


class Batch(NamedTuple):
    """The windows of one step.

    A named tuple and no frozen dataclass: Lightning rebuilds batches field by field (precision 64-true), which it
    refuses to do for a frozen dataclass.
    """

    tokens: Int64[Tensor, "batch pos"]
    live: Bool[Tensor, "batch pos"]  # text: neither the prepended BOS at position 0, nor a separator, nor padding
    documents: Int64[Tensor, "batch pos"] | None = None  # which document, the prepended BOS 0; None: all may be read

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The same batch on another device."""
        return Batch(
            tokens=self.tokens.to(device, non_blocking=non_blocking),
            live=self.live.to(device, non_blocking=non_blocking),
            documents=None if self.documents is None else self.documents.to(device, non_blocking=non_blocking),
        )

    def trace(self, lm: LanguageModel, *, patterns: bool) -> Trace:
        """The model's clean run on these windows. patterns: see `LanguageModel.trace`."""
        return lm.trace(*self, patterns=patterns)


@dataclass(frozen=True, eq=False)
class TokenWindows:
    """Every window of one side of the corpus, all of one width, in the order of the documents."""

    tokens: Int32[Tensor, "window pos"]
    lengths: Int32[Tensor, " window"]  # tokens that are not padding, the prepended BOS included
    bos: bool  # position 0 of every window is a prepended BOS
    separator: int | None = None  # the token between documents
    starts: Bool[Tensor, "window pos"] | None = None  # where a document begins; None: attention may cross
    # What does not count although it is text. Not in the file: the text is the same, whatever is made of it.
    excluded: tuple[int, ...] = ()  # tokens
    skipped: int = 0  # positions at the beginning, after the BOS

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def context(self) -> int:
        """Positions a window."""
        return self.tokens.shape[1]

    @property
    def n_tokens(self) -> int:
        """Tokens of all windows, the prepended BOS included, padding not."""
        return int(self.lengths.sum())

    def batch(self, indices: Int[Tensor, " batch"] | Sequence[int]) -> Batch:
        """The windows at `indices`, in that order; raises IndexError beyond the last window."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        return Batch(tokens=self.tokens[index].long(), live=self.live(index), documents=self._documents(index))

    def live(self, index: Int64[Tensor, " batch"] | slice = slice(None)) -> Bool[Tensor, "batch pos"]:
        """Which positions of the windows at `index` are text."""
        position = torch.arange(self.context)
        live = (position < self.lengths[index][:, None]) & (position >= int(self.bos) + self.skipped)
        if self.separator is not None:
            live &= self.tokens[index] != self.separator
        for token in self.excluded:
            live &= self.tokens[index] != token
        return live

    def leaving_out(self, excluded: Sequence[int], skipped: int) -> "TokenWindows":
        """The windows in which anything still counts when these tokens and first positions do not."""
        fewer = replace(self, excluded=tuple(excluded), skipped=skipped)
        parts = torch.arange(len(self)).split(_COUNTED)
        kept = torch.cat([fewer.live(part).any(1) for part in parts])
        starts = None if self.starts is None else self.starts[kept]
        return replace(fewer, tokens=self.tokens[kept], lengths=self.lengths[kept], starts=starts)

    def _documents(self, index: Int64[Tensor, " batch"]) -> Int64[Tensor, "batch pos"] | None:
        if self.starts is None:
            return None
        documents = self.starts[index].cumsum(1) + 1
        if self.bos:
            documents[:, 0] = 0
        return documents

    def save(self, path: Path) -> None:
        """Write a safetensors file, under a temporary name first, so that a killed run leaves no half file."""
        tensors = {"tokens": self.tokens.contiguous(), "lengths": self.lengths.contiguous()}
        if self.starts is not None:
            tensors["starts"] = self.starts.contiguous()
        separator = "none" if self.separator is None else str(self.separator)
        metadata = {"format": _FORMAT, "bos": str(self.bos).lower(), "separator": separator}
        write(path, partial(save_file, tensors, metadata=metadata))

    @classmethod
    def load(cls, path: Path) -> "TokenWindows":
        """Read what `save` wrote; raises ValueError naming the file and what is wrong with it."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        except (SafetensorError, FileNotFoundError) as error:
            raise ValueError(f"{path}: cannot be read as safetensors: {error}") from error
        if problem := _problem(metadata, tensors):
            raise ValueError(f"{path}: no token windows of this version: {problem}")
        separator = metadata["separator"]
        return cls(
            tokens=tensors["tokens"],
            lengths=tensors["lengths"],
            bos=metadata["bos"] == "true",
            separator=None if separator == "none" else int(separator),
            starts=tensors.get("starts"),
        )


def _problem(metadata: dict[str, str], tensors: dict[str, Tensor]) -> str | None:
    """What keeps a file from being token windows, or None."""
    if metadata.get("format") != _FORMAT:
        return f"metadata format={metadata.get('format')}; needed: {_FORMAT}"
    if metadata.get("bos") not in ("true", "false"):
        return f"metadata bos={metadata.get('bos')}; allowed: true, false"
    separator = metadata.get("separator", "")
    if separator != "none" and not separator.isdecimal():
        return f"metadata separator={separator or None}; allowed: none, the number of a token"
    if set(tensors) - {"starts"} != {"tokens", "lengths"}:
        return f"tensors {', '.join(sorted(tensors)) or 'none'}; needed: lengths, tokens; allowed: starts"
    tokens, lengths = tensors["tokens"], tensors["lengths"]
    if tokens.dtype != torch.int32 or lengths.dtype != torch.int32:
        return f"tokens are {tokens.dtype}, lengths {lengths.dtype}; needed: torch.int32"
    if tokens.ndim != 2 or lengths.shape != tokens.shape[:1] or not tokens.numel():
        return (
            f"tokens have shape {tuple(tokens.shape)}, lengths {tuple(lengths.shape)}; needed: (window, pos), (window)"
        )
    starts = tensors.get("starts")
    if starts is not None and (starts.dtype != torch.bool or starts.shape != tokens.shape):
        return f"starts are {starts.dtype} of shape {tuple(starts.shape)}; needed: torch.bool, one a token"
    if lengths.min() < 1 or lengths.max() > tokens.shape[1]:
        return f"lengths from {lengths.min()} to {lengths.max()}; allowed: 1 to {tokens.shape[1]}"
    if tokens.min() < 0:
        return f"a token of {tokens.min()}; allowed: 0 and above"
    return None
