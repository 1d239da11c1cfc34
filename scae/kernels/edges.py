"""The connections into one site, in the orders in which the kernels walk them."""

from dataclasses import dataclass, fields

import torch

from scae.kernels.code import pointers, rows_of
from scae.typing import Int, Tensor


@dataclass(frozen=True)
class Edges:
    """Connections into the features of one site, sorted by their upstream end.

    Walking the out-edges of the features that fired costs (features that fired) x (their out-edges), so this order, and
    not the one in which a reader looks at a feature's inputs, is that of the weights. Backward walks the inputs of the
    features that were selected: what that needs is kept beside it.

    ptr: `[up + 1]` where the out-edges of each upstream feature begin; up, down: `[edge]` the two ends.
    down_ptr: `[down + 1]` where the in-edges of each downstream feature begin in the same edges sorted by their
    downstream end; up_by_down: `[edge]` their upstream ends in that order; to_down, to_up: `[edge]` take one order to
    the other, `by_down = by_up[to_down]` and `by_up = by_down[to_up]`.
    """

    ptr: Int[Tensor, " up_plus_1"]
    up: Int[Tensor, " edge"]
    down: Int[Tensor, " edge"]
    down_ptr: Int[Tensor, " down_plus_1"]
    up_by_down: Int[Tensor, " edge"]
    to_down: Int[Tensor, " edge"]
    to_up: Int[Tensor, " edge"]

    @classmethod
    def from_csr(cls, crow: Int[Tensor, " down_plus_1"], up: Int[Tensor, " edge"], n_up: int) -> "Edges":
        """crow: where the in-edges of each downstream feature begin; up: their upstream features, below `n_up`."""
        crow, up = crow.long(), up.long()
        down = rows_of(crow, len(up))
        to_up = torch.argsort(up, stable=True)
        to_down = torch.empty_like(to_up)
        to_down[to_up] = torch.arange(len(to_up), device=up.device)
        ptr = pointers(torch.bincount(up, minlength=n_up))
        return cls(ptr, up[to_up], down[to_up], crow, up, to_down, to_up)

    def from_sources(self) -> tuple["Edges", Int[Tensor, " source"]]:
        """The same edges between the upstream features that have any, numbered anew, and which features those are."""
        sources, up_by_down = torch.unique(self.up_by_down, return_inverse=True)
        return Edges.from_csr(self.down_ptr, up_by_down, len(sources)), sources

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
        return len(self.up)
