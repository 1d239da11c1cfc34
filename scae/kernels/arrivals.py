"""What arrives at the features of one site along its connections, as a value that the other operations can hold."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from scae.core.typing import Float, Int, Tensor
from scae.kernels.code import SparseCode
from scae.kernels.edges import Edges


@dataclass(frozen=True, eq=False)
class Upstream:
    """The codes of several sites one after the other, their features numbered on from site to site.

    crow: `[site, token + 1]` where the entries of each site's tokens begin; col, value: `[nnz]`.
    """

    crow: Int[Tensor, "site token_plus_1"]
    col: Int[Tensor, " nnz"]
    value: Float[Tensor, " nnz"]

    @classmethod
    def from_codes(cls, codes: Sequence[SparseCode]) -> "Upstream":
        crow, col, entries, features = [], [], 0, 0
        for code in codes:
            crow.append(code.crow + entries)
            col.append(code.col + features)
            entries, features = entries + len(code.col), features + code.n_features
        return cls(torch.stack(crow), torch.cat(col), torch.cat([code.value for code in codes]))


@dataclass(frozen=True, eq=False)
class Arrivals:
    """`mover` applied to the contributions along `edges`, of weight `weight` `[edge, head]`, of the codes `upstream`.

    mover, with one head: `[token]`, a factor at each token; with any: `[window, query, key, head]`, how much of what is
    at each key moves to each query, zero for keys after the query.
    """

    upstream: Upstream
    edges: Edges
    weight: Float[Tensor, "edge head"]
    mover: Float[Tensor, " token"] | Float[Tensor, "window query key head"]

    @property
    def window(self) -> int:
        """The tokens that must stay together."""
        return 1 if self.mover.ndim == 1 else self.mover.shape[1]

    def tokens(self, start: int, stop: int) -> "Arrivals":
        """The same for a run of tokens that begins and ends between windows."""
        upstream = Upstream(self.upstream.crow[:, start : stop + 1], self.upstream.col, self.upstream.value)
        mover = self.mover[start // self.window : stop // self.window]
        return Arrivals(upstream, self.edges, self.weight, mover)


def move(
    mover: Float[Tensor, "window query key head"], contributions: Float[Tensor, "token head down"]
) -> Float[Tensor, "token down"]:
    """`einsum("wqkh,wkhi->wqi", mover, contributions)`, each block of keys for the queries from its first key on."""
    windows, n_query = mover.shape[:2]
    n_heads, n_down = contributions.shape[1:]
    at_keys = contributions.reshape(windows, n_query * n_heads, n_down)
    out = contributions.new_empty(windows, n_query, n_down)
    for start, stop in _blocks(n_query):
        later = out[:, start:]
        moved = mover[:, start:, start:stop].flatten(2)
        torch.baddbmm(later, moved, at_keys[:, start * n_heads : stop * n_heads], beta=int(start > 0), out=later)
    return out.flatten(0, 1)


def move_back(
    mover: Float[Tensor, "window query key head"], grad: Float[Tensor, "token down"]
) -> Float[Tensor, "token head down"]:
    """The gradient of `move` with respect to the contributions."""
    windows, n_query, _, n_heads = mover.shape
    at_queries = grad.view(windows, n_query, -1)
    out = grad.new_empty(windows, n_query * n_heads, grad.shape[1])
    for start, stop in _blocks(n_query):
        torch.bmm(
            mover[:, start:, start:stop].flatten(2).mT,
            at_queries[:, start:],
            out=out[:, start * n_heads : stop * n_heads],
        )
    return out.view(windows * n_query, n_heads, -1)


def _blocks(n: int) -> Iterator[tuple[int, int]]:
    """Runs of positions, four at most: measured, more of them cost more than what they leave out."""
    step = max(32, -(-n // 4))
    for start in range(0, n, step):
        yield start, min(start + step, n)
