"""The connections into one site, in the orders in which the kernels walk them."""

from dataclasses import dataclass, fields, replace

import torch

from scae.core.typing import Int, Int32, Tensor
from scae.kernels.code import pointers, rows_of


@dataclass(frozen=True)
class Edges:
    """Connections into the features of one site, sorted by their upstream end.

    Walking the out-edges of the features that fired costs (features that fired) x (their out-edges), so this order, and
    not the one in which a reader looks at a feature's inputs, is that of the weights. Backward walks the inputs of the
    features that were selected: what that needs is kept beside it.

    ptr: `[up + 1]` where the out-edges of each upstream feature begin; down: `[edge]` their downstream ends.
    down_ptr: `[down + 1]` where the in-edges of each downstream feature begin in the same edges sorted by their
    downstream end; up_by_down: `[edge]` their upstream ends in that order; to_down, to_up: `[edge]` take one order to
    the other, `by_down = by_up[to_down]` and `by_up = by_down[to_up]`.

    All int32: 16 bytes an edge, of which `up_by_down` is the list that the edges were made from. What multiplies one of
    these numbers with a width has to widen it first.
    """

    ptr: Int32[Tensor, " up_plus_1"]
    down: Int32[Tensor, " edge"]
    down_ptr: Int32[Tensor, " down_plus_1"]
    up_by_down: Int32[Tensor, " edge"]
    to_down: Int32[Tensor, " edge"]
    to_up: Int32[Tensor, " edge"]

    @classmethod
    def from_csr(cls, crow: Int[Tensor, " down_plus_1"], up: Int[Tensor, " edge"], n_up: int) -> "Edges":
        """crow: where the in-edges of each downstream feature begin; up: their upstream features, below `n_up`."""
        crow, up = crow.int(), up.int()
        to_up = torch.argsort(up, stable=True)
        to_down = torch.empty_like(up)
        to_down[to_up] = torch.arange(len(up), dtype=torch.int32, device=up.device)
        ptr = pointers(torch.bincount(up, minlength=n_up))
        down = rows_of(crow, len(up))[to_up]
        return cls(ptr.int(), down.int(), crow, up, to_down, to_up.int())

    def from_sources(self) -> tuple["Edges", Int[Tensor, " source"]]:
        """The same edges between the upstream features that have any, numbered anew, and which features those are."""
        sources = self.ptr.diff().nonzero()[:, 0]
        number = torch.empty_like(self.ptr)
        number[sources] = torch.arange(len(sources), dtype=torch.int32, device=sources.device)
        ptr = torch.cat([self.ptr[sources], self.ptr[-1:]])
        return replace(self, ptr=ptr, up_by_down=number[self.up_by_down]), sources

    @property
    def up(self) -> Int[Tensor, " edge"]:
        """The upstream end of each edge; not stored, `ptr` says it."""
        return rows_of(self.ptr, len(self))

    @property
    def tensors(self) -> list[Tensor]:
        """The fields, in their order: what an operation of torch takes."""
        return [getattr(self, field.name) for field in fields(self)]

    @property
    def n_up(self) -> int:
        return len(self.ptr) - 1

    @property
    def n_down(self) -> int:
        return len(self.down_ptr) - 1

    def __len__(self) -> int:
        return len(self.down)
