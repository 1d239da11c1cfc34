"""The connections into one site, in the order in which the kernels walk them."""

from dataclasses import dataclass

import torch

from scae.typing import Int, Tensor


@dataclass(frozen=True)
class Edges:
    """Connections into the features of one site, sorted by their upstream end.

    Walking the out-edges of the features that fired costs (features that fired) x (their out-edges), so this order, and
    not the one in which a reader looks at a feature's inputs, is the one kept in memory.

    ptr: `[up + 1]` where the out-edges of each upstream feature begin; up, down: `[edge]` the two ends;
    down_ptr: `[down + 1]` and down_order: `[edge]` list the same edges by their downstream end.
    """

    ptr: Int[Tensor, " up_plus_1"]
    up: Int[Tensor, " edge"]
    down: Int[Tensor, " edge"]
    down_ptr: Int[Tensor, " down_plus_1"]
    down_order: Int[Tensor, " edge"]

    @classmethod
    def from_csr(cls, crow: Int[Tensor, " down_plus_1"], up: Int[Tensor, " edge"], n_up: int) -> "Edges":
        """crow: where the in-edges of each downstream feature begin; up: their upstream features, below `n_up`."""
        crow, up = crow.long(), up.long()
        down = torch.repeat_interleave(torch.arange(len(crow) - 1, device=up.device), crow.diff(), output_size=len(up))
        order = torch.argsort(up, stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=up.device)
        ptr = torch.cat([crow.new_zeros(1), torch.bincount(up, minlength=n_up).cumsum(0)])
        return cls(ptr, up[order], down[order], crow, rank)

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The fields, in their order: what an operation of torch takes."""
        return self.ptr, self.up, self.down, self.down_ptr, self.down_order

    @property
    def n_up(self) -> int:
        return len(self.ptr) - 1

    @property
    def n_down(self) -> int:
        return len(self.down_ptr) - 1

    def __len__(self) -> int:
        return len(self.up)
