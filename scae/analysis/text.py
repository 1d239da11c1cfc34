"""The text that an analysis looks at: which windows, in which parts, and what is known of each token."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file

from scae.core.typing import Int, Tensor
from scae.core.whole_files import write
from scae.data import TokenWindows, heldout_windows
from scae.lm import LanguageModel, Trace

PART = 1 << 13  # tokens after which what was found is written down


@dataclass(frozen=True, eq=False)
class Text:
    """Some of the held-out windows. index: which; batch_size: how many the model runs on at a time, at most; packing:
    how documents became windows (`data.packing`)."""

    windows: TokenWindows
    index: Int[Tensor, " window"]
    batch_size: int
    packing: Literal["packed", "document"]

    @classmethod
    def of(
        cls, windows: TokenWindows, *, tokens: int, batch_size: int, packing: Literal["packed", "document"]
    ) -> "Text":
        """About so many tokens: the windows that an evaluation on as many looks at."""
        return cls(windows, heldout_windows(windows, tokens), batch_size, packing)

    @property
    def context(self) -> int:
        return self.windows.context

    @property
    def n_tokens(self) -> int:
        return len(self.index) * self.context

    @cached_property
    def live(self) -> Tensor:
        return self.windows.live(self.index).flatten()

    @property
    def n_live(self) -> int:
        return int(self.live.sum())

    @property
    def parts(self) -> tuple[Int[Tensor, " window"], ...]:
        """Runs of windows of about `PART` tokens, whatever the batches are: they are found again with others."""
        return self.index.split(max(1, PART // self.context))

    def traces(self, lm: LanguageModel, part: Int[Tensor, " window"] | None = None) -> Iterator[Trace]:
        """The model's clean runs on these windows, or on all."""
        for some in (self.index if part is None else part).split(self.batch_size):
            yield lm.trace(*self.windows.batch(some).to(lm.device))

    def save(self, path: Path) -> None:
        """Write `tokens.safetensors`."""
        window, position = torch.meshgrid(self.index, torch.arange(self.context), indexing="ij")
        columns = {
            "id": self.windows.tokens[self.index],
            "document": self._documents()[self.index],
            "position": position,
            "window": window,
        }
        tensors = {name: column.int().flatten().contiguous() for name, column in columns.items()}
        tensors["live"] = self.live.contiguous()
        write(path, lambda temporary: save_file(tensors, temporary))

    def _documents(self) -> Int[Tensor, "window pos"]:
        """Of every token of the held-out text the number of its document; -1 where nobody knows it any more: attention
        may cross, and nothing stands between documents. A BOS is of the document after it."""
        windows, bos = self.windows, int(self.windows.bos)
        if self.packing == "document":
            return torch.arange(len(windows))[:, None].expand(-1, self.context)
        if windows.starts is not None:
            begins = windows.starts[:, bos:]
        elif windows.separator is not None:
            begins = windows.tokens[:, bos:] == windows.separator
        else:
            return torch.full_like(windows.tokens, -1)
        documents = begins.flatten().cumsum(0)
        documents = (documents - documents[0]).view(begins.shape)
        return torch.cat([documents[:, :1], documents], dim=1) if bos else documents
