"""What a transcoder writes beside its features: u W (Paulo et al. 2025, "Transcoders Beat Sparse Autoencoders").

It reads the whole stream without a connection, so a suite that has any cannot be pruned.
"""

import torch
from torch import nn

from scae.core.typing import Float, Tensor


class Skip(nn.Module):
    """W: `[d_in, d_out]`, 0 at first."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.zeros(d_in, d_out))

    def forward(self, u: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_out"]:
        return u @ self.W
