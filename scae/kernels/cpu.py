"""The sparse operations on the CPU: compiled loops (numba) over the entries that exist.

Same contracts as `scae.kernels.reference`. Every loop is split into a fixed number of chunks whose partial results are
added in order, so that repeated runs agree bit for bit. (`no_type_check`: numba compiles a function, and not what a
run-time type checker makes of it.)
"""

from typing import no_type_check

import numba
import numpy as np
import torch
import torch.nn.functional as F
from numba import njit, prange

from scae.kernels.code import SparseCode, Support, pointers
from scae.kernels.edges import Edges
from scae.typing import Bool, Float, Int, Tensor


def largest(pre: Float[Tensor, "token feature"], k: int, live: Bool[Tensor, " token"]) -> SparseCode:
    """See `reference.largest`; a heap of k finds each row's cut, a second walk takes what lies above it."""
    cut, counts = pre.new_empty(len(pre)), torch.empty(len(pre), dtype=torch.int64)
    _cuts(_array(pre), k, _array(live), _array(cut), _array(counts))
    crow = pointers(counts)
    col, value = torch.empty(int(crow[-1]), dtype=torch.int64), pre.new_empty(int(crow[-1]))
    _take(_array(pre), _array(cut), _array(crow), _array(col), _array(value))
    return SparseCode(Support(crow, col, pre.shape[1]), value)


def bag(
    crow: Int[Tensor, " row_plus_1"],
    col: Int[Tensor, " nnz"],
    value: Float[Tensor, "nnz head"],
    table: Float[Tensor, "col head r"],
) -> Float[Tensor, "row head r"]:
    """See `reference.bag`; torch's own `embedding_bag`, a head at a time."""
    heads = [
        F.embedding_bag(
            col,
            table[:, h].contiguous(),
            crow,
            mode="sum",
            per_sample_weights=value[:, h].contiguous(),
            include_last_offset=True,
        )
        for h in range(table.shape[1])
    ]
    return torch.stack(heads, dim=1) if len(heads) > 1 else heads[0][:, None]


def sampled(
    row: Int[Tensor, " nnz"],
    col: Int[Tensor, " nnz"],
    left: Float[Tensor, "row head r"],
    right: Float[Tensor, "col head r"],
) -> Float[Tensor, "nnz head"]:
    """See `reference.sampled`."""
    out = left.new_empty(len(row), left.shape[1])
    _sampled(_array(row), _array(col), _array(left), _array(right), _array(out))
    return out


def spread(
    codes: list[SparseCode], edges: Edges, weight: Float[Tensor, "edge head"]
) -> Float[Tensor, "token head down"]:
    """See `reference.spread`; walks the out-edges of the features that fired."""
    crow, col, value = _stack(codes)
    out = weight.new_empty(codes[0].n_tokens, weight.shape[1], edges.n_down)
    chunks = numba.get_num_threads()
    _spread(crow, col, value, _array(edges.ptr), _array(edges.down), _array(weight), _array(out), chunks)
    return out


def spread_backward(
    codes: list[SparseCode], edges: Edges, weight: Float[Tensor, "edge head"], grad: Float[Tensor, "token head down"]
) -> tuple[Float[Tensor, " nnz"], Float[Tensor, "edge head"]]:
    """See `reference.spread_backward`; one walk for both gradients."""
    crow, col, value = _stack(codes)
    grad_value = weight.new_empty(len(value))
    partial = weight.new_zeros(numba.get_num_threads(), *weight.shape)
    _spread_backward(
        crow, col, value, _array(edges.ptr), _array(edges.down), _array(weight), _array(grad),
        _array(grad_value), _array(partial),
    )  # fmt: skip
    return grad_value, partial.sum(0)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _stack(codes: list[SparseCode]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes of several sites one after the other: `crow[site, token]` points into the joined entries."""
    starts = np.cumsum([0, *(len(code.col) for code in codes)])
    offsets = np.cumsum([0, *(code.n_features for code in codes)])
    crow = np.stack([_array(code.crow) + start for code, start in zip(codes, starts, strict=False)])
    col = np.concatenate([_array(code.col) + offset for code, offset in zip(codes, offsets, strict=False)])
    return crow, col, np.concatenate([_array(code.value) for code in codes])


@njit(parallel=True, cache=True)
@no_type_check
def _cuts(pre, k, live, cut, counts):
    """The k-th largest positive entry of each live row, or 0 where there are fewer; and how many lie at or above it."""
    for n in prange(len(pre)):
        heap = np.empty(k, dtype=pre.dtype)  # the root is the smallest entry kept so far
        count = 0
        for f in range(pre.shape[1] if live[n] else 0):
            v = pre[n, f]
            if v <= 0 or (count == k and v <= heap[0]):
                continue
            if count < k:  # sift up from a new leaf
                at = count
                count += 1
                while at > 0 and heap[(at - 1) // 2] > v:
                    heap[at] = heap[(at - 1) // 2]
                    at = (at - 1) // 2
            else:  # the root leaves, sift down
                at = 0
                while 2 * at + 1 < k:
                    child = 2 * at + 1
                    if child + 1 < k and heap[child + 1] < heap[child]:
                        child += 1
                    if heap[child] >= v:
                        break
                    heap[at] = heap[child]
                    at = child
            heap[at] = v
        counts[n] = count
        cut[n] = heap[0] if count == k else 0


@njit(parallel=True, cache=True)
@no_type_check
def _take(pre, cut, crow, col, value):
    """The entries of each row above its cut, and of those that equal it as many as there is room for."""
    for n in prange(len(pre)):
        room = crow[n + 1] - crow[n]
        at, above = crow[n], 0
        for f in range(pre.shape[1] if room else 0):
            above += pre[n, f] > cut[n]
        equal = room - above
        for f in range(pre.shape[1] if room else 0):
            v = pre[n, f]
            if v > cut[n] or (equal > 0 and v == cut[n]):
                equal -= v == cut[n]
                col[at], value[at] = f, v
                at += 1


@njit(parallel=True, cache=True, fastmath=True)
@no_type_check
def _sampled(row, col, left, right, out):
    for p in prange(len(row)):
        i, j = row[p], col[p]
        for h in range(left.shape[1]):
            total = left[i, h, 0] * right[j, h, 0]
            for r in range(1, left.shape[2]):
                total += left[i, h, r] * right[j, h, r]
            out[p, h] = total


@njit(parallel=True, cache=True, fastmath=True)
@no_type_check
def _spread(crow, col, value, ptr, down, weight, out, chunks):
    n_tokens, n_heads, n_down = out.shape
    for chunk in prange(chunks):
        heads_last = np.empty((n_down, n_heads), dtype=out.dtype)  # stays in cache while a token is walked
        for n in range(chunk * n_tokens // chunks, (chunk + 1) * n_tokens // chunks):
            heads_last[:] = 0
            for site in range(crow.shape[0]):
                for p in range(crow[site, n], crow[site, n + 1]):
                    v = value[p]
                    for e in range(ptr[col[p]], ptr[col[p] + 1]):
                        i = down[e]
                        for h in range(n_heads):
                            heads_last[i, h] += v * weight[e, h]
            for h in range(n_heads):
                for i in range(n_down):
                    out[n, h, i] = heads_last[i, h]


@njit(parallel=True, cache=True, fastmath=True)
@no_type_check
def _spread_backward(crow, col, value, ptr, down, weight, grad, grad_value, grad_weight):
    n_tokens, n_heads, n_down = grad.shape
    chunks = grad_weight.shape[0]
    for chunk in prange(chunks):
        heads_last = np.empty((n_down, n_heads), dtype=grad.dtype)
        for n in range(chunk * n_tokens // chunks, (chunk + 1) * n_tokens // chunks):
            for h in range(n_heads):
                for i in range(n_down):
                    heads_last[i, h] = grad[n, h, i]
            for site in range(crow.shape[0]):
                for p in range(crow[site, n], crow[site, n + 1]):
                    v = value[p]
                    total = v * 0
                    for e in range(ptr[col[p]], ptr[col[p] + 1]):
                        i = down[e]
                        for h in range(n_heads):
                            g = heads_last[i, h]
                            total += weight[e, h] * g
                            grad_weight[chunk, e, h] += v * g
                    grad_value[p] = total
