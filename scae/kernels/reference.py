"""The sparse operations in plain torch: slow, obvious, on any device and dtype. The oracle of every other backend."""

import torch

from scae.core.typing import Bool, Float, Int, Tensor
from scae.kernels.arrivals import Arrivals
from scae.kernels.code import SparseCode, pointers, rows_of


def largest(
    pre: Float[Tensor, "token feature"], k: int, live: Bool[Tensor, " token"]
) -> tuple[Int[Tensor, " token_plus_1"], Int[Tensor, " nnz"], Float[Tensor, " nnz"]]:
    """`crow, col, value` of the k largest positive entries of each live row, in the order of the features."""
    col = pre.topk(k, dim=1, sorted=False).indices.sort(dim=1).values
    value = pre.gather(1, col)
    keep = (value > 0) & live[:, None]
    return pointers(keep.sum(1)), col[keep], value[keep]


def spmm(
    crow: Int[Tensor, " row_plus_1"],
    col: Int[Tensor, " nnz"],
    value: Float[Tensor, "nnz head"],
    table: Float[Tensor, "col head r"],
) -> Float[Tensor, "row head r"]:
    """`out[n, h] = sum of value[p, h] * table[col[p], h] over the entries p of row n`."""
    out = table.new_zeros(len(crow) - 1, *table.shape[1:])
    return out.index_add(0, rows_of(crow, len(col)), value[..., None] * table[col])


def spmm_transposed(
    crow: Int[Tensor, " row_plus_1"],
    col: Int[Tensor, " nnz"],
    value: Float[Tensor, " nnz"],
    table: Float[Tensor, "row r"],
    n_cols: int,
) -> Float[Tensor, "col r"]:
    """`out[j] = sum of value[p] * table[row of p] over the entries p of column j`."""
    out = table.new_zeros(n_cols, table.shape[1])
    return out.index_add(0, col, value[:, None] * table[rows_of(crow, len(col))])


def decode_backward(
    crow: Int[Tensor, " row_plus_1"],
    col: Int[Tensor, " nnz"],
    value: Float[Tensor, " nnz"],
    decoder: Float[Tensor, "col r"],
    grad: Float[Tensor, "row r"],
) -> tuple[Float[Tensor, " nnz"], Float[Tensor, "col r"]]:
    """The gradients with respect to `value` and `decoder` of `matrix of the entries @ decoder`, given its own."""
    grad_value = sddmm(crow, col, grad[:, None], decoder[:, None])[:, 0]
    return grad_value, spmm_transposed(crow, col, value, grad, len(decoder))


def sddmm(
    crow: Int[Tensor, " row_plus_1"],
    col: Int[Tensor, " nnz"],
    left: Float[Tensor, "row head r"],
    right: Float[Tensor, "col head r"],
) -> Float[Tensor, "nnz head"]:
    """`out[p, h] = left[row of p, h] . right[col[p], h]`: the entries of a dense product that are asked for."""
    return (left[rows_of(crow, len(col))] * right[col]).sum(-1)


def arrive(arrivals: Arrivals) -> Float[Tensor, "token down"]:
    """`einsum("wqkh,wkj,ijh->wqi", mover, activations, matrix of the weights)`; with one factor a token, times that."""
    mover, (activations, matrix) = arrivals.mover, _dense(arrivals)
    if mover.ndim == 1:
        return mover[:, None] * (activations @ matrix[..., 0].T)
    by_window = activations.view(*mover.shape[:2], -1)
    return torch.einsum("wqkh,wkj,ijh->wqi", mover, by_window, matrix).flatten(0, 1)


def arrive_backward(arrivals: Arrivals, grad: SparseCode) -> tuple[Float[Tensor, " nnz"], Float[Tensor, "edge head"]]:
    """The gradients of `arrive` with respect to the values upstream and the weights, where its own gradient is `grad`,
    zero at the entries that are not stored."""
    up, edges, mover, (activations, matrix) = arrivals.upstream, arrivals.edges, arrivals.mover, _dense(arrivals)
    if mover.ndim == 1:
        moved_back = (mover[:, None] * grad.dense())[:, None]
    else:
        by_window = grad.dense().view(*mover.shape[:2], -1)
        moved_back = torch.einsum("wqkh,wqi->wkhi", mover, by_window).flatten(0, 1)
    grad_activations = torch.einsum("nhi,ijh->nj", moved_back, matrix)
    grad_value = torch.zeros_like(up.value)
    for site in up.crow:
        covered = slice(int(site[0]), int(site[-1]))
        grad_value[covered] = grad_activations[rows_of(site, covered.stop - covered.start), up.col[covered]]
    grad_matrix = torch.einsum("nhi,nj->ijh", moved_back, activations)
    return grad_value, grad_matrix[edges.down, edges.up]


def _dense(arrivals: Arrivals) -> tuple[Float[Tensor, "token up"], Float[Tensor, "down up head"]]:
    """The activations and the weights as matrices; entries that no pointer covers are left out."""
    up, edges, weight = arrivals.upstream, arrivals.edges, arrivals.weight
    activations = up.value.new_zeros(up.crow.shape[1] - 1, edges.n_up)
    for site in up.crow:
        covered = slice(int(site[0]), int(site[-1]))
        activations[rows_of(site, covered.stop - covered.start), up.col[covered]] = up.value[covered]
    matrix = weight.new_zeros(edges.n_down, edges.n_up, weight.shape[1])
    return activations, matrix.index_put((edges.down, edges.up), weight)
