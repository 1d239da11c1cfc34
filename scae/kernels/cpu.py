"""The sparse operations on the CPU: compiled loops (numba) over the entries that exist.

Same contracts as `scae.kernels.reference`. Work is split between threads so that no two write to the same place, or
into a fixed number of parts whose results are added in order: repeated runs agree bit for bit. Half-precision input is
computed in float32. (`no_type_check`: numba compiles a function, and not what a run-time type checker makes of it.)
"""

from typing import no_type_check

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit, prange

from scae.core.typing import Bool, Float, Int, Tensor
from scae.kernels.arrivals import Arrivals, move
from scae.kernels.code import SparseCode, pointers
from scae.kernels.lanes import in_lanes, spread, spread_backward
from scae.kernels.threads import threads

BLOCK = 64
"""Entries that are looked at again together, or not at all."""


def largest(
    pre: Float[Tensor, "token feature"], k: int, live: Bool[Tensor, " token"]
) -> tuple[Int[Tensor, " token_plus_1"], Int[Tensor, " nnz"], Float[Tensor, " nnz"]]:
    """See `reference.largest`; bisection on the bits of what the largest of each group of entries let through."""
    wide = _wide(pre)
    values, chunks = _array(wide), threads()
    bits = values.view(np.int64 if wide.dtype == torch.float64 else np.int32)
    found, counts = np.empty((len(bits), k), dtype=np.uint32), np.empty(len(bits), dtype=np.int64)
    groups = min(max(2 * k, BLOCK), bits.shape[1])
    _largest(bits, k, _array(live), groups, chunks, found, counts)
    crow = pointers(torch.from_numpy(counts))
    col, value = torch.empty(int(crow[-1]), dtype=torch.int64), wide.new_empty(int(crow[-1]))
    _pack(found, values, _array(crow), _array(col), _array(value))
    return crow, col, value.to(pre.dtype)


def spmm(
    crow: Int[Tensor, " row_plus_1"],
    col: Int[Tensor, " nnz"],
    value: Float[Tensor, "nnz head"],
    table: Float[Tensor, "col head r"],
) -> Float[Tensor, "row head r"]:
    """See `reference.spmm`; with one head it is torch's own `embedding_bag`."""
    value, wide = _wide(value), _wide(table)
    if table.shape[1] == 1:
        weights = value[:, 0].contiguous()
        one = F.embedding_bag(
            col, wide[:, 0].contiguous(), crow, mode="sum", per_sample_weights=weights, include_last_offset=True
        )
        return one[:, None].to(table.dtype)
    out = wide.new_empty(len(crow) - 1, *table.shape[1:])
    _spmm(_array(crow), _array(col), _array(value), _array(wide), _array(out))
    return out.to(table.dtype)


def spmm_transposed(
    crow: Int[Tensor, " row_plus_1"],
    col: Int[Tensor, " nnz"],
    value: Float[Tensor, " nnz"],
    table: Float[Tensor, "row r"],
    n_cols: int,
) -> Float[Tensor, "col r"]:
    """See `reference.spmm_transposed`."""
    wide = _wide(table)
    out = wide.new_empty(n_cols, wide.shape[1])
    _spmm_transposed(*_by_column(crow, col, n_cols), _array(_wide(value)), _array(wide), _array(out))
    return out.to(table.dtype)


def decode_backward(
    crow: Int[Tensor, " row_plus_1"],
    col: Int[Tensor, " nnz"],
    value: Float[Tensor, " nnz"],
    decoder: Float[Tensor, "col r"],
    grad: Float[Tensor, "row r"],
) -> tuple[Float[Tensor, " nnz"], Float[Tensor, "col r"]]:
    """See `reference.decode_backward`; every row of `grad` is read once for both."""
    wide, wide_value = _wide(decoder), _wide(value)
    grad_value, grad_decoder = wide_value.new_empty(len(col)), wide.new_empty(wide.shape)
    _decode_backward(
        *_by_column(crow, col, len(wide)), _array(wide_value), _array(wide), _array(_wide(grad)),
        _array(grad_value), _array(grad_decoder),
    )  # fmt: skip
    return grad_value.to(value.dtype), grad_decoder.to(decoder.dtype)


def sddmm(
    crow: Int[Tensor, " row_plus_1"],
    col: Int[Tensor, " nnz"],
    left: Float[Tensor, "row head r"],
    right: Float[Tensor, "col head r"],
) -> Float[Tensor, "nnz head"]:
    """See `reference.sddmm`."""
    out = _wide(left).new_empty(len(col), left.shape[1])
    _sddmm(_array(crow), _array(col), _array(_wide(left)), _array(_wide(right)), _array(out))
    return out.to(left.dtype)


def arrive(arrivals: Arrivals) -> Float[Tensor, "token down"]:
    """See `reference.arrive`; walks the out-edges of the features that fired, then moves all of it at once."""
    up, edges, mover, weight = arrivals.upstream, arrivals.edges, _wide(arrivals.mover), _wide(arrivals.weight)
    walk = _array(up.crow), _array(up.col), _array(_wide(up.value)), _array(edges.ptr), _array(edges.down)
    n_tokens = up.crow.shape[1] - 1
    if mover.ndim == 1:
        out = weight.new_empty(n_tokens, edges.n_down)
        _arrive_in_place(*walk, _array(weight), _array(mover), _array(out))
    else:
        contributions = weight.new_empty(n_tokens, weight.shape[1], edges.n_down)
        spread(*walk, _array(in_lanes(weight)), _array(contributions), threads())
        out = move(mover, contributions)
    return out.to(arrivals.mover.dtype)


def arrive_backward(arrivals: Arrivals, grad: SparseCode) -> tuple[Float[Tensor, " nnz"], Float[Tensor, "edge head"]]:
    """See `reference.arrive_backward`; walks the in-edges of the features that have a gradient."""
    edges, mover, chunks = arrivals.edges, _wide(arrivals.mover), threads()
    by_down = _wide(arrivals.weight).index_select(0, edges.to_down)
    up, in_edges = arrivals.upstream, (_array(edges.down_ptr), _array(edges.up_by_down))
    crow, col, value = _array(up.crow), _array(up.col), _array(_wide(up.value))
    at_crow, at_col, at_value = _array(grad.crow), _array(grad.col), _array(_wide(grad.value))
    grad_value = by_down.new_zeros(len(value))
    if mover.ndim == 1:
        partial_weight = by_down.new_zeros(chunks, len(edges))
        _arrive_in_place_backward(
            crow, col, value, edges.n_up, *in_edges, _array(by_down), at_crow, at_col, at_value, _array(mover),
            _array(grad_value), _array(partial_weight),
        )  # fmt: skip
        grad_by_down = partial_weight.sum(0)[:, None]
    else:
        up_ptr, up_pos, up_entry = _by_window(crow, col, arrivals.window, edges.n_up)
        at_ptr, at_pos, at_entry = _by_window(at_crow[None], at_col, arrivals.window, edges.n_down)
        partial_value = by_down.new_zeros(chunks, len(up_entry))
        by_lane = in_lanes(by_down)
        grad_by_lane = torch.zeros_like(by_lane)
        spread_backward(
            up_ptr, up_pos, value[up_entry], *in_edges, _array(by_lane), at_ptr, at_pos, at_value[at_entry],
            _array(in_lanes(mover).flatten(2)), _array(partial_value), _array(grad_by_lane),
        )  # fmt: skip
        grad_by_down = grad_by_lane[:, : by_down.shape[1]]
        _ungroup(_array(partial_value), up_entry, _array(grad_value))
    grad_weight = grad_by_down.index_select(0, edges.to_up)
    return grad_value.to(up.value.dtype), grad_weight.to(arrivals.weight.dtype)


def _wide(tensor: Tensor) -> Tensor:
    """float32 in place of the half precisions, which numba does not know."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _array(tensor: Tensor) -> np.ndarray:
    """What numba sees of it. Positions are unsigned: compiled loops need not ask of each whether it counts from the
    end, which takes as long as what they do there."""
    array = tensor.detach().contiguous().numpy()
    unsigned = {np.dtype(np.int64): np.uint64, np.dtype(np.int32): np.uint32}
    return array.view(unsigned.get(array.dtype, array.dtype))


def _by_column(crow: Int[Tensor, " row_plus_1"], col: Int[Tensor, " nnz"], n_cols: int) -> tuple[np.ndarray, ...]:
    """The entries grouped by column, then row: `[col + 1]` where each group begins, the row and place of each."""
    ptr, row, entry = _grouped(_array(crow[None]), _array(col), np.array([0, len(crow) - 1]), n_cols)
    return ptr[0], row, entry


def _by_window(crow: np.ndarray, col: np.ndarray, window: int, n_features: int) -> tuple[np.ndarray, ...]:
    """The entries that `crow` covers, grouped by window, then feature, then token."""
    return _grouped(crow, col, np.arange(0, crow.shape[1], window), n_features)


def _grouped(crow: np.ndarray, col: np.ndarray, bounds: np.ndarray, n_features: int) -> tuple[np.ndarray, ...]:
    """The entries that `crow` covers, grouped by run of tokens, `bounds[w]` to `bounds[w + 1]`, then feature, then
    token.

    ptr: `[run, feature + 1]` where each group begins; pos: the position of each entry in its run; entry: its place in
    `col`.
    """
    starts = np.zeros(len(bounds), dtype=np.uint64)
    np.cumsum((crow[:, bounds[1:]] - crow[:, bounds[:-1]]).sum(0), out=starts[1:])
    ptr = np.empty((len(bounds) - 1, n_features + 1), dtype=np.uint32)
    pos, entry = np.empty(starts[-1], dtype=np.uint32), np.empty(starts[-1], dtype=np.uint64)
    _group(crow, col, bounds, starts, ptr, pos, entry)
    return ptr, pos, entry


@njit(parallel=True, cache=True)
@no_type_check
def _largest(bits, k, live, groups, chunks, col, counts):
    """The features of the k largest positive entries of each live row, in order, and how many there are.

    The order of positive floats is the order of their bits. One pass takes the largest of each group of entries; what
    k of those exceed, k entries do, and few others: only these are looked at again.
    """
    n_rows, width = bits.shape
    zero = bits.dtype.type(0)
    for chunk in prange(chunks):
        tops, kept = np.empty(groups, dtype=bits.dtype), np.empty(width, dtype=bits.dtype)
        at = np.empty(width, dtype=np.int32)
        for n in range(chunk * n_rows // chunks, (chunk + 1) * n_rows // chunks):
            counts[n] = 0
            if not live[n]:
                continue
            tops[:] = zero
            for start in range(0, width, groups):
                part = bits[n, start : start + groups]
                for g in range(len(part)):
                    tops[g] = max(tops[g], part[g])
            high = tops.max()
            bound, _ = _cut(tops, k, k // 4, zero, high)
            m = np.uint64(0)
            for start in range(0, width, BLOCK):
                part, top = bits[n, start : start + BLOCK], zero
                for f in range(len(part)):
                    top = max(top, part[f])
                for f in range(len(part) if top > bound else 0):
                    kept[m], at[m] = part[f], start + f
                    m += np.uint64(part[f] > bound)
            cut, above = _cut(kept[:m], k, 0, bound, high)
            room = 0
            if above > k:  # the smallest of those above are equal: the first ones are taken
                cut, room = bits.dtype.type(cut + 1), k
                for i in range(m):
                    room -= kept[i] > cut
            c = 0
            for i in range(m):
                tie = room > 0 and kept[i] == cut
                if tie or kept[i] > cut:
                    room -= tie
                    col[n, c] = at[i]
                    c += 1
            counts[n] = c


@njit(cache=True)
@no_type_check
def _cut(values, k, spare, low, high):
    """What k values, and at most `spare` more, lie above; just below their smallest, where that comes too often for it;
    `low`, where no more lie above that. None lies above `high`. And how many do lie above it."""
    above = np.int32(0)
    for i in range(len(values)):
        above += np.int32(values[i] > low)
    while above > k + spare and high - low > 1:
        middle, found = values.dtype.type(low + (high - low) // 2), np.int32(0)
        for i in range(len(values)):
            found += np.int32(values[i] > middle)
        if found >= k:
            low, above = middle, found
        else:
            high = middle
    return low, above


@njit(parallel=True, cache=True)
@no_type_check
def _pack(col, pre, crow, out, value):
    for n in prange(len(col)):
        first = np.int64(crow[n])
        for i in range(np.int64(crow[n + 1]) - first):
            out[first + i], value[first + i] = col[n, i], pre[n, col[n, i]]


@njit(parallel=True, cache=True, fastmath=True)
@no_type_check
def _spmm(crow, col, value, table, out):
    for i in prange(len(out)):
        out[i] = 0
        for p in range(crow[i], crow[i + 1]):
            for h in range(table.shape[1]):
                v = value[p, h]
                for r in range(table.shape[2]):
                    out[i, h, r] += v * table[col[p], h, r]


@njit(parallel=True, cache=True, fastmath=True)
@no_type_check
def _spmm_transposed(ptr, row, entry, value, table, out):
    for j in prange(len(out)):
        total = out[j]
        total[:] = 0
        for at in range(ptr[j], ptr[j + 1]):
            v, given = value[entry[at]], table[row[at]]
            for r in range(len(total)):
                total[r] += v * given[r]


@njit(parallel=True, cache=True, fastmath=True)
@no_type_check
def _decode_backward(ptr, row, entry, value, decoder, grad, grad_value, grad_decoder):
    for j in prange(len(decoder)):
        written, total = decoder[j], grad_decoder[j]
        total[:] = 0
        for at in range(ptr[j], ptr[j + 1]):
            v, given = value[entry[at]], grad[row[at]]
            along = decoder.dtype.type(0)
            for r in range(len(total)):
                along += given[r] * written[r]
                total[r] += v * given[r]
            grad_value[entry[at]] = along


@njit(parallel=True, cache=True, fastmath=True)
@no_type_check
def _sddmm(crow, col, left, right, out):
    for i in prange(len(crow) - 1):
        for p in range(crow[i], crow[i + 1]):
            j = col[p]
            for h in range(left.shape[1]):
                total = left.dtype.type(0)
                for r in range(left.shape[2]):
                    total += left[i, h, r] * right[j, h, r]
                out[p, h] = total


@njit(parallel=True, cache=True, fastmath=True)
@no_type_check
def _arrive_in_place(crow, col, value, ptr, down, weight, factor, out):
    for n in prange(len(out)):
        row = out[n]
        row[:] = 0
        for site in range(len(crow)):
            for p in range(crow[site, n], crow[site, n + 1]):
                v = value[p] * factor[n]
                for e in range(ptr[col[p]], ptr[col[p] + 1]):
                    row[down[e]] += v * weight[e, 0]


@njit(parallel=True, cache=True, fastmath=True)
@no_type_check
def _arrive_in_place_backward(
    crow, col, value, n_up, down_ptr, up, weight, at_crow, at_col, grad, factor, grad_value, grad_weight
):
    """A token at a time: where its upstream activations are stored lies open while its selected features are walked."""
    chunks, n_tokens = len(grad_weight), len(factor)
    for chunk in prange(chunks):
        stored = np.full(n_up, -1, dtype=np.int32)
        for n in range(chunk * n_tokens // chunks, (chunk + 1) * n_tokens // chunks):
            for site in range(len(crow)):
                for p in range(crow[site, n], crow[site, n + 1]):
                    stored[col[p]] = p
            for q in range(at_crow[n], at_crow[n + 1]):
                g = grad[q] * factor[n]
                for e in range(down_ptr[at_col[q]], down_ptr[at_col[q] + 1]):
                    p = stored[up[e]]
                    if p >= 0:
                        grad_value[p] += g * weight[e, 0]
                        grad_weight[chunk, e] += g * value[p]
            for site in range(len(crow)):
                for p in range(crow[site, n], crow[site, n + 1]):
                    stored[col[p]] = -1


@njit(parallel=True, cache=True)
@no_type_check
def _group(crow, col, bounds, starts, ptr, pos, entry):
    for w in prange(len(ptr)):
        first, last = bounds[w], bounds[w + 1]
        fill = np.zeros(ptr.shape[1], dtype=np.int64)
        for site in range(len(crow)):
            for p in range(crow[site, first], crow[site, last]):
                fill[col[p] + 1] += 1
        fill[0] = starts[w]
        for f in range(1, len(fill)):
            fill[f] += fill[f - 1]
        for f in range(len(fill)):
            ptr[w, f] = fill[f]
        for site in range(len(crow)):
            for n in range(first, last):
                for p in range(crow[site, n], crow[site, n + 1]):
                    at = fill[col[p]]
                    fill[col[p]] += 1
                    pos[at], entry[at] = n - first, p


@njit(parallel=True, cache=True)
@no_type_check
def _ungroup(partial, entry, out):
    """The sum of the parts, each entry back at its place."""
    for p in prange(len(entry)):
        total = partial[0, p]
        for chunk in range(1, len(partial)):
            total += partial[chunk, p]
        out[entry[p]] = total
