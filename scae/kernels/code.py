"""The activations of a dictionary as a ragged matrix: for every token, the features that fired."""

from dataclasses import dataclass, replace

import torch

from scae.typing import Bool, Float, Int, Tensor


@dataclass(frozen=True)
class SparseCode:
    """Tokens x features in CSR form; a token may have any number of entries, also none.

    crow: `[token + 1]` where each token's entries begin; col: `[nnz]` feature of each entry; value: `[nnz]` activation.
    """

    crow: Int[Tensor, " token_plus_1"]
    col: Int[Tensor, " nnz"]
    value: Float[Tensor, " nnz"]
    n_features: int

    @classmethod
    def where(cls, support: Bool[Tensor, "token feature"], values: Float[Tensor, "token feature"]) -> "SparseCode":
        """The code that holds `values` where `support` is true."""
        row, col = support.nonzero(as_tuple=True)
        return cls(_pointers(support.sum(1)), col, values[row, col], support.shape[1])

    @classmethod
    def from_rows(
        cls,
        keep: Bool[Tensor, "token k"],
        col: Int[Tensor, "token k"],
        value: Float[Tensor, "token k"],
        n_features: int,
    ) -> "SparseCode":
        """The code whose token n has the entries `(col[n], value[n])` where `keep[n]` is true."""
        return cls(_pointers(keep.sum(1)), col[keep], value[keep], n_features)

    @property
    def n_tokens(self) -> int:
        return self.crow.shape[0] - 1

    @property
    def row(self) -> Int[Tensor, " nnz"]:
        """The token of each entry."""
        counts = self.crow.diff()
        return torch.repeat_interleave(
            torch.arange(self.n_tokens, device=counts.device), counts, output_size=len(self.col)
        )

    def with_values(self, value: Float[Tensor, " nnz"]) -> "SparseCode":
        return replace(self, value=value)

    def dense(self) -> Float[Tensor, "token feature"]:
        out = self.value.new_zeros(self.n_tokens, self.n_features)
        return out.index_put((self.row, self.col), self.value)

    def columns(self, features: slice) -> "SparseCode":
        """The code of a run of features, numbered from its start."""
        inside = (self.col >= features.start) & (self.col < features.stop)
        counts = torch.bincount(self.row[inside], minlength=self.n_tokens)
        col = self.col[inside] - features.start
        return SparseCode(_pointers(counts), col, self.value[inside], features.stop - features.start)

    def fired(self) -> Bool[Tensor, " feature"]:
        """Which features have an activation > 0 somewhere."""
        out = torch.zeros(self.n_features, dtype=torch.bool, device=self.col.device)
        out[self.col[self.value > 0]] = True
        return out


def _pointers(counts: Int[Tensor, " token"]) -> Int[Tensor, " token_plus_1"]:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
