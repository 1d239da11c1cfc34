"""The sparse operations in plain torch: slow, obvious, on any device and dtype. The oracle of every other backend."""

import torch

from scae.kernels.code import SparseCode
from scae.kernels.edges import Edges
from scae.typing import Bool, Float, Int, Tensor


def largest(pre: Float[Tensor, "token feature"], k: int, live: Bool[Tensor, " token"]) -> SparseCode:
    """The k largest positive entries of each live row, in the order of the features."""
    features = pre.topk(k, dim=1, sorted=False).indices.sort(dim=1).values
    values = pre.gather(1, features)
    return SparseCode.from_rows((values > 0) & live[:, None], features, values, pre.shape[1])


def bag(
    crow: Int[Tensor, " row_plus_1"],
    col: Int[Tensor, " nnz"],
    value: Float[Tensor, "nnz head"],
    table: Float[Tensor, "col head r"],
) -> Float[Tensor, "row head r"]:
    """`out[n, h] = sum of value[p, h] * table[col[p], h] over the entries p of row n`."""
    row = torch.repeat_interleave(torch.arange(len(crow) - 1, device=col.device), crow.diff(), output_size=len(col))
    out = table.new_zeros(len(crow) - 1, *table.shape[1:])
    return out.index_add(0, row, value[..., None] * table[col])


def sampled(
    row: Int[Tensor, " nnz"],
    col: Int[Tensor, " nnz"],
    left: Float[Tensor, "row head r"],
    right: Float[Tensor, "col head r"],
) -> Float[Tensor, "nnz head"]:
    """`out[p, h] = left[row[p], h] . right[col[p], h]`: the entries of a dense product that are asked for."""
    return (left[row] * right[col]).sum(-1)


def spread(
    codes: list[SparseCode], edges: Edges, weight: Float[Tensor, "edge head"]
) -> Float[Tensor, "token head down"]:
    """`out[n, h, i] = sum of weight[e, h] * activation[n, up(e)] over the edges e into i`.

    `codes` are those of the upstream sites, whose features are numbered on from site to site.
    """
    dense = torch.cat([code.dense() for code in codes], dim=1)
    out = weight.new_zeros(edges.n_down, dense.shape[0], weight.shape[1])
    out = out.index_add(0, edges.down, dense.T[edges.up][:, :, None] * weight[:, None, :])
    return out.permute(1, 2, 0)


def spread_backward(
    codes: list[SparseCode], edges: Edges, weight: Float[Tensor, "edge head"], grad: Float[Tensor, "token head down"]
) -> tuple[Float[Tensor, " nnz"], Float[Tensor, "edge head"]]:
    """The gradients of `spread` with respect to the stored activations, site after site, and to `weight`."""
    dense = torch.cat([code.dense() for code in codes], dim=1)
    at_edges = grad[:, :, edges.down]  # token, head, edge
    grad_weight = torch.einsum("nhe,ne->eh", at_edges, dense[:, edges.up])
    grad_dense = torch.zeros_like(dense).index_add(1, edges.up, torch.einsum("nhe,eh->ne", at_edges, weight))
    offset, grads = 0, []
    for code in codes:
        grads.append(grad_dense[code.row, offset + code.col])
        offset += code.n_features
    return torch.cat(grads), grad_weight
