"""The activations of a dictionary as a ragged matrix: for every token, the features that fired."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from scae.core.typing import Bool, Float, Int, Tensor


@dataclass(frozen=True, eq=False)
class Support:
    """Which entries of a tokens x features matrix are stored, in CSR form.

    crow: `[token + 1]` where each token's entries begin; col: `[nnz]` the feature of each entry.
    """

    crow: Int[Tensor, " token_plus_1"]
    col: Int[Tensor, " nnz"]
    n_features: int

    @cached_property
    def row(self) -> Int[Tensor, " nnz"]:
        """The token of each entry."""
        return rows_of(self.crow, len(self.col))


@dataclass(frozen=True, eq=False)
class SparseCode:
    """A support and the activation of each of its entries, `[nnz]`. A token may have any number of them, also none."""

    support: Support
    value: Float[Tensor, " nnz"]

    @classmethod
    def where(cls, support: Bool[Tensor, "token feature"], values: Float[Tensor, "token feature"]) -> "SparseCode":
        """The code that holds `values` where `support` is true."""
        row, col = support.nonzero(as_tuple=True)
        return cls(Support(pointers(support.sum(1)), col, support.shape[1]), values[row, col])

    @classmethod
    def joined(cls, parts: Sequence["SparseCode"]) -> "SparseCode":
        """Codes of the same features on runs of tokens, one run after the other."""
        if len(parts) == 1:
            return parts[0]
        crow = pointers(torch.cat([part.crow.diff() for part in parts]))
        support = Support(crow, torch.cat([part.col for part in parts]), parts[0].n_features)
        return cls(support, torch.cat([part.value for part in parts]))

    @classmethod
    def from_rows(
        cls,
        keep: Bool[Tensor, "token k"],
        col: Int[Tensor, "token k"],
        value: Float[Tensor, "token k"],
        n_features: int,
    ) -> "SparseCode":
        """The code whose token n has the entries `(col[n], value[n])` where `keep[n]` is true."""
        return cls(Support(pointers(keep.sum(1)), col[keep], n_features), value[keep])

    @property
    def crow(self) -> Int[Tensor, " token_plus_1"]:
        return self.support.crow

    @property
    def col(self) -> Int[Tensor, " nnz"]:
        return self.support.col

    @property
    def row(self) -> Int[Tensor, " nnz"]:
        return self.support.row

    @property
    def n_features(self) -> int:
        return self.support.n_features

    @property
    def n_tokens(self) -> int:
        return len(self.crow) - 1

    def with_values(self, value: Float[Tensor, " nnz"]) -> "SparseCode":
        return SparseCode(self.support, value)

    def dense(self) -> Float[Tensor, "token feature"]:
        out = self.value.new_zeros(self.n_tokens, self.n_features)
        return out.index_put((self.row, self.col), self.value)

    def mask(self) -> Bool[Tensor, "token feature"]:
        """Where there is an entry."""
        out = torch.zeros(self.n_tokens, self.n_features, dtype=torch.bool, device=self.col.device)
        return out.index_put((self.row, self.col), torch.ones_like(self.col, dtype=torch.bool))

    def entries(self, keep: Bool[Tensor, " nnz"]) -> "SparseCode":
        """The code of some of its entries."""
        crow = pointers(torch.bincount(self.row[keep], minlength=self.n_tokens))
        return SparseCode(Support(crow, self.col[keep], self.n_features), self.value[keep])

    def columns(self, features: slice) -> "SparseCode":
        """The code of a run of features, numbered from its start. The rows are not kept: codes that are taken apart
        like this are held for a whole sample."""
        inside = (self.col >= features.start) & (self.col < features.stop)
        row = rows_of(self.crow, len(self.col))[inside]
        crow = pointers(torch.bincount(row, minlength=self.n_tokens))
        support = Support(crow, self.col[inside] - features.start, features.stop - features.start)
        return SparseCode(support, self.value[inside])

    def fired(self) -> Bool[Tensor, " feature"]:
        """Which features have an activation > 0 somewhere."""
        out = torch.zeros(self.n_features, dtype=torch.bool, device=self.col.device)
        out[self.col[self.value > 0]] = True
        return out


def pointers(counts: Int[Tensor, " row"]) -> Int[Tensor, " row_plus_1"]:
    """Where each row begins, from the number of entries of each."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def rows_of(crow: Int[Tensor, " row_plus_1"], nnz: int) -> Int[Tensor, " nnz"]:
    """The row of each entry."""
    rows = torch.arange(len(crow) - 1, device=crow.device)
    return torch.repeat_interleave(rows, crow.diff(), output_size=nnz)
