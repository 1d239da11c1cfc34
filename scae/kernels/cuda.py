"""The sparse operations on an NVIDIA GPU, as Triton kernels over raw tensors.

Work is proportional to the entries that exist, nothing is larger than an input or an output, and every sum is taken in
one fixed order, without atomics, so that repeated runs agree bit for bit. Sums are kept in float32, those of float64
in float64, and given back in the dtype of the input. (`no_type_check`: Triton compiles the source of a
function, and not what a run-time type checker makes of it.)

Tiles are small so that many programs are resident: the walks wait for loads that depend on loads. The sizes follow
from register counts and reasoning, not from measurements on a GPU.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl

from scae.core.typing import Bool, Float, Int, Tensor
from scae.kernels.arrivals import Arrivals, move, move_back
from scae.kernels.code import SparseCode, pointers, rows_of
from scae.kernels.edges import Edges

CHUNK = 4096  # features that one program of `largest` holds in registers; twice as many, and half as many programs fit
PIECE = 512  # entries of a row that one program of `spmm` adds up, so that one long row does not outlast all others
TILE = 2048  # elements of a tile of `spmm` and `sddmm`
WALK = 128  # elements of a tile of the walks along edges: few features have more out-edges than that


def largest(
    pre: Float[Tensor, "token feature"], k: int, live: Bool[Tensor, " token"]
) -> tuple[Int[Tensor, " token_plus_1"], Int[Tensor, " nnz"], Float[Tensor, " nnz"]]:
    """`(crow, col, value)` of the k largest positive entries of each live row; equal ones by the lowest column.

    Chunks of a row choose their k largest, then chunks of what they chose, until a row is one chunk.
    """
    if k == 0:
        return live.new_zeros(len(pre) + 1, dtype=torch.int64), live.new_empty(0, dtype=torch.int64), pre.new_empty(0)
    chunk = max(CHUNK, 2 * triton.next_power_of_2(k))  # twice k, so that what is left shrinks
    value, col = _choose(pre.contiguous(), k, chunk)
    while value.shape[1] > k:
        value, at = _choose(value, k, chunk)
        col = col.gather(1, at)
    keep = (value > 0) & live[:, None]  # not NaN, whose bit pattern is above all
    return pointers(keep.sum(1)), col[keep], value[keep]


def spmm(
    crow: Int[Tensor, " row_plus_1"],
    col: Int[Tensor, " nnz"],
    value: Float[Tensor, "nnz head"],
    table: Float[Tensor, "n head r"],
) -> Float[Tensor, "row head r"]:
    """`out[i, h] = sum of value[p, h] * table[col[p], h] over the entries p of row i`."""
    col, value, table = col.contiguous(), value.contiguous(), table.contiguous()
    n_rows, (_, n_heads, r) = len(crow) - 1, table.shape
    start, stop, long, more = _pieces(crow, len(col))
    columns = min(128, triton.next_power_of_2(n_heads * r))
    blocks = triton.cdiv(n_heads * r, columns)
    out = table.new_empty(len(start), n_heads, r, dtype=_sum_dtype(table))
    # rows on the fast axis: the columns of the table that run at one time fit the L2 cache
    _spmm[(len(start), blocks)](start, stop, col, value, table, out, n_heads, r, TILE // columns, columns)
    _add_pieces[(len(long), blocks)](long, more, out, n_rows, n_heads * r, columns)
    return out[:n_rows].to(table.dtype)


def spmm_transposed(
    crow: Int[Tensor, " row_plus_1"],
    col: Int[Tensor, " nnz"],
    value: Float[Tensor, " nnz"],
    table: Float[Tensor, "row r"],
    n_cols: int,
) -> Float[Tensor, "col r"]:
    """See `reference.spmm_transposed`."""
    ptr, order = pointers(torch.bincount(col, minlength=n_cols)), torch.argsort(col, stable=True)
    return spmm(ptr, rows_of(crow, len(col))[order], value[order, None], table[:, None])[:, 0]


def decode_backward(
    crow: Int[Tensor, " row_plus_1"],
    col: Int[Tensor, " nnz"],
    value: Float[Tensor, " nnz"],
    decoder: Float[Tensor, "col r"],
    grad: Float[Tensor, "row r"],
) -> tuple[Float[Tensor, " nnz"], Float[Tensor, "col r"]]:
    """See `reference.decode_backward`."""
    grad_value = sddmm(crow, col, grad[:, None], decoder[:, None])[:, 0]
    return grad_value, spmm_transposed(crow, col, value, grad, len(decoder))


def sddmm(
    crow: Int[Tensor, " row_plus_1"],
    col: Int[Tensor, " nnz"],
    left: Float[Tensor, "row head r"],
    right: Float[Tensor, "n head r"],
) -> Float[Tensor, "nnz head"]:
    """`out[p, h] = left[row(p), h] . right[col[p], h]`: the entries of a dense product that are asked for."""
    _, n_heads, r = left.shape
    out = left.new_empty(len(col), n_heads)
    across = min(128, triton.next_power_of_2(r))
    grid = (triton.cdiv(len(col), TILE // across), n_heads)
    left, right = left.contiguous(), right.contiguous()
    _sddmm[grid](
        rows_of(crow, len(col)), col.contiguous(), left, right, out,
        len(col), r, _sum_type(left), TILE // across, across,
    )  # fmt: skip
    return out


def spread(
    crow: Int[Tensor, "site token_plus_1"],
    col: Int[Tensor, " nnz"],
    value: Float[Tensor, " nnz"],
    edges: Edges,
    weight: Float[Tensor, "edge head"],
) -> Float[Tensor, "token head down"]:
    """`out[n, h, i] = sum of weight[e, h] * activation[n, up(e)] over the edges e into i`.

    The entries `crow[s, n]` to `crow[s, n + 1]` are those of token n, for every site s. No pair of features may be
    connected twice: the out-edges of one entry are added side by side.
    """
    n_sites, n_tokens, n_heads = crow.shape[0], crow.shape[1] - 1, weight.shape[1]
    ptr, down = edges.ptr.contiguous(), edges.down.contiguous()
    out = weight.new_zeros(n_tokens, n_heads, edges.n_down, dtype=_sum_dtype(weight))
    heads = triton.next_power_of_2(n_heads)
    _spread[(n_tokens,)](
        crow.contiguous(), col.contiguous(), value.contiguous(), ptr, down, weight.contiguous(), out,
        n_sites, n_tokens, n_heads, edges.n_down, max(WALK // heads, 1), heads, num_warps=2,
    )  # fmt: skip
    return out.to(weight.dtype)


def spread_backward(
    crow: Int[Tensor, "site token_plus_1"],
    col: Int[Tensor, " nnz"],
    value: Float[Tensor, " nnz"],
    edges: Edges,
    weight: Float[Tensor, "edge head"],
    grad: Float[Tensor, "token head down"],
) -> tuple[Float[Tensor, " nnz"], Float[Tensor, "edge head"]]:
    """The gradients of `spread` with respect to `value` and `weight`; 0 for entries that no token has."""
    crow, col, value = crow.contiguous(), col.contiguous(), value.contiguous()
    weight, grad = weight.contiguous(), grad.contiguous()
    n_sites, n_tokens, n_heads = crow.shape[0], crow.shape[1] - 1, weight.shape[1]
    ptr, up, down = edges.ptr.contiguous(), edges.up.contiguous(), edges.down.contiguous()
    sums = _sum_type(weight)

    grad_value, token = torch.zeros_like(value), torch.full_like(col, -1)
    _grad_value[(n_tokens * n_sites,)](
        crow, col, ptr, down, weight, grad, grad_value, token,
        n_sites, n_tokens, n_heads, edges.n_down, sums, 4, WALK // 4, num_warps=1,
    )  # fmt: skip

    # the firings of each feature; entries that no token has come last, behind every pointer
    feature, order = torch.sort(torch.where(token < 0, edges.n_up, col).int(), stable=True)
    ends = torch.arange(edges.n_up + 1, dtype=torch.int32, device=col.device)
    firing = torch.searchsorted(feature, ends)
    grad_weight = torch.empty_like(weight)
    _grad_weight[(triton.cdiv(len(edges), 4), n_heads)](
        firing, token[order], value[order], up, down, edges.to_down.contiguous(), grad, grad_weight,
        len(edges), edges.n_down, sums, 4, WALK // 4, num_warps=1,
    )  # fmt: skip
    return grad_value, grad_weight


def arrive(arrivals: Arrivals) -> Float[Tensor, "token down"]:
    """See `reference.arrive`."""
    up, mover = arrivals.upstream, arrivals.mover
    contributions = spread(up.crow, up.col, up.value, arrivals.edges, arrivals.weight)
    return mover[:, None] * contributions[:, 0] if mover.ndim == 1 else move(mover, contributions)


def arrive_backward(arrivals: Arrivals, grad: SparseCode) -> tuple[Float[Tensor, " nnz"], Float[Tensor, "edge head"]]:
    """See `reference.arrive_backward`; the gradient is laid out densely, as wide as the pre-activations are."""
    up, mover, dense = arrivals.upstream, arrivals.mover, grad.dense()
    moved_back = (mover[:, None] * dense)[:, None] if mover.ndim == 1 else move_back(mover, dense)
    return spread_backward(up.crow, up.col, up.value, arrivals.edges, arrivals.weight, moved_back)


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _sum_type(tensor: Tensor) -> tl.dtype:
    return tl.float64 if tensor.dtype == torch.float64 else tl.float32


def _choose(
    pre: Float[Tensor, "token feature"], k: int, chunk: int
) -> tuple[Float[Tensor, "token chosen"], Int[Tensor, "token chosen"]]:
    """The k largest positive entries of every chunk of a row and their columns, filled up with zeros."""
    n_tokens, n_features = pre.shape
    chunk = min(chunk, triton.next_power_of_2(n_features))
    chunks = triton.cdiv(n_features, chunk)
    value = pre.new_zeros(n_tokens, chunks * k)
    col = torch.zeros_like(value, dtype=torch.int64)
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[pre.element_size()]
    wide = tl.int64 if bits == torch.int64 else tl.int32
    warps = min(max(chunk // 256, 1), 32)  # 8 features a thread
    _largest[(n_tokens, chunks)](pre.view(bits), value.view(bits), col, n_features, k, wide, chunk, num_warps=warps)
    return value, col


def _pieces(
    crow: Int[Tensor, " row_plus_1"], n_entries: int
) -> tuple[Int[Tensor, " piece"], Int[Tensor, " piece"], Int[Tensor, " extra"], Int[Tensor, " extra"]]:
    """The entries of a matrix in pieces of at most `PIECE` of one row, so that a long row is not one program's work.

    The first piece of every row comes first, in the order of the rows, then the extra ones of the long rows; of those
    there are as many as n entries can need, so that the host need not wait for their number. Gives where each piece
    starts and stops, the row of each extra piece, and how many of that row start here: 0 but for the first.
    """
    counts = (crow.diff() - 1).clamp(min=0) // PIECE
    before = pointers(counts)
    extra = torch.arange(n_entries // PIECE, device=crow.device)
    row = torch.searchsorted(before, extra, right=True) - 1
    used = row < len(counts)
    row = torch.where(used, row, 0)
    nth = extra - before[row]
    start = torch.cat([crow[:-1], torch.where(used, crow[row] + (nth + 1) * PIECE, 0)])
    end = torch.cat([crow[1:], torch.where(used, crow[row + 1], 0)])
    return start, torch.minimum(start + PIECE, end), row, torch.where(used & (nth == 0), counts[row], 0)


@triton.jit
@no_type_check
def _largest(pre, out_value, out_col, width, k, BITS: tl.constexpr, CHUNK: tl.constexpr):
    """out[row, chunk] = the k largest positive entries of the chunk, by column, and zeros.

    On the bit patterns of floats as integers: those of positive floats are in the order of the floats, of others <= 0.
    """
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = chunk * CHUNK + tl.arange(0, CHUNK)
    entry = tl.load(pre + row * width + column, mask=column < width, other=0)
    bits = entry.to(BITS)
    # the highest cut that k entries reach; where fewer are positive, 1
    low, high = tl.full([], 1, BITS), tl.max(bits, 0)
    while low < high:
        middle = low + (high - low + 1) // 2
        count = tl.sum((bits >= middle).to(tl.int32), 0)
        low = tl.where(count >= k, middle, low)
        high = tl.where(count > k, high, tl.where(count == k, middle, middle - 1))  # exactly k: done
    above, equal = bits > low, bits == low
    room = k - tl.sum(above.to(tl.int32), 0)
    taken = above | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= room))
    slot = tl.cumsum(taken.to(tl.int32), 0) - 1
    first = (row * tl.num_programs(1) + chunk) * k
    tl.store(out_value + first + slot, entry, mask=taken)
    tl.store(out_col + first + slot, column, mask=taken)


@triton.jit
@no_type_check
def _spmm(start, stop, col, value, table, out, n_heads, r, ENTRIES: tl.constexpr, COLUMNS: tl.constexpr):
    """out[piece, h, c] = sum of value[p, h] table[col[p], h, c] over the entries p of the piece."""
    piece = tl.program_id(0).to(tl.int64)
    width = n_heads * r
    column = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS))[None, :]  # heads and r in one
    sums = out.dtype.element_ty
    total = tl.zeros([ENTRIES, COLUMNS], dtype=sums)
    end = tl.load(stop + piece)
    for first in range(tl.load(start + piece), end, ENTRIES):
        entry = (first + tl.arange(0, ENTRIES))[:, None]
        source = tl.load(col + entry, mask=entry < end, other=0).to(tl.int64)
        inside = (entry < end) & (column < width)
        factor = tl.load(value + entry * n_heads + column // r, mask=inside, other=0)
        total += factor.to(sums) * tl.load(table + source * width + column, mask=inside, other=0).to(sums)
    tl.store(out + piece * width + column, tl.sum(total, 0)[None, :], mask=column < width)


@triton.jit
@no_type_check
def _add_pieces(row, more, out, n_rows, width, COLUMNS: tl.constexpr):
    """out[row] += the extra pieces of the row; by the program of the first of them."""
    extra = tl.program_id(0)
    count = tl.load(more + extra)
    if count > 0:
        column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        to = out + tl.load(row + extra) * width + column
        total = tl.load(to, mask=column < width, other=0)
        for piece in range(n_rows + extra, n_rows + extra + count):
            total += tl.load(out + piece * width + column, mask=column < width, other=0)
        tl.store(to, total, mask=column < width)


@triton.jit
@no_type_check
def _sddmm(
    row, col, left, right, out, n_entries, r,
    SUMS: tl.constexpr, ENTRIES: tl.constexpr, ACROSS: tl.constexpr,
):  # fmt: skip
    """out[p, h] = sum of left[row[p], h, c] right[col[p], h, c] over c."""
    head, n_heads = tl.program_id(1), tl.num_programs(1)
    entry = tl.program_id(0).to(tl.int64) * ENTRIES + tl.arange(0, ENTRIES)
    live = entry < n_entries
    one = (tl.load(row + entry, mask=live, other=0) * n_heads + head) * r
    other = (tl.load(col + entry, mask=live, other=0).to(tl.int64) * n_heads + head) * r
    total = tl.zeros([ENTRIES, ACROSS], dtype=SUMS)
    for first in range(0, r, ACROSS):
        across = (first + tl.arange(0, ACROSS))[None, :]
        inside = live[:, None] & (across < r)
        factor = tl.load(left + one[:, None] + across, mask=inside, other=0).to(SUMS)
        total += factor * tl.load(right + other[:, None] + across, mask=inside, other=0).to(SUMS)
    tl.store(out + entry * n_heads + head, tl.sum(total, 1), mask=live)


@triton.jit
@no_type_check
def _spread(
    crow, col, value, ptr, down, weight, out, n_sites, n_tokens, n_heads, n_down,
    EDGES: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """out[n, h, down(e)] += value[p] weight[e, h] for the out-edges e of every entry p of token n."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS)[None, :]
    row = out + (token * n_heads + head) * n_down
    for site in range(n_sites):
        at = crow + site * (n_tokens + 1) + token
        for entry in range(tl.load(at), tl.load(at + 1)):
            feature = tl.load(col + entry)
            activation = tl.load(value + entry).to(out.dtype.element_ty)
            end = tl.load(ptr + feature + 1)
            for first in range(tl.load(ptr + feature), end, EDGES):
                edge = (first + tl.arange(0, EDGES)).to(tl.int64)[:, None]
                to = row + tl.load(down + edge, mask=edge < end, other=0)
                inside = (edge < end) & (head < n_heads)
                factor = tl.load(weight + edge * n_heads + head, mask=inside, other=0)
                tl.store(to, tl.load(to, mask=inside, other=0) + activation * factor, mask=inside)
            tl.debug_barrier()  # another thread may add to the same place for the next entry


@triton.jit
@no_type_check
def _grad_value(
    crow, col, ptr, down, weight, grad, grad_value, token_of, n_sites, n_tokens, n_heads, n_down,
    SUMS: tl.constexpr, ENTRIES: tl.constexpr, EDGES: tl.constexpr,
):  # fmt: skip
    """grad_value[p] = sum of weight[e, h] grad[n, h, down(e)] over heads and the out-edges e of p; token_of[p] = n."""
    token, site = tl.program_id(0) // n_sites, tl.program_id(0) % n_sites  # a row of `grad` is read at one time
    row = grad + token.to(tl.int64) * n_heads * n_down
    at = crow + site * (n_tokens + 1) + token
    end = tl.load(at + 1)
    for first in range(tl.load(at), end, ENTRIES):
        entry = first + tl.arange(0, ENTRIES)
        live = entry < end
        feature = tl.load(col + entry, mask=live, other=0)
        begin = tl.load(ptr + feature, mask=live, other=0).to(tl.int64)[:, None]
        stop = tl.load(ptr + feature + 1, mask=live, other=0).to(tl.int64)[:, None]
        total = tl.zeros([ENTRIES, EDGES], dtype=SUMS)
        for step in range(0, tl.max(stop - begin), EDGES):
            edge = begin + step + tl.arange(0, EDGES)[None, :]
            inside = edge < stop
            source = row + tl.load(down + edge, mask=inside, other=0)
            for head in range(n_heads):
                factor = tl.load(weight + edge * n_heads + head, mask=inside, other=0).to(SUMS)
                total += factor * tl.load(source + head * n_down, mask=inside, other=0).to(SUMS)
        tl.store(grad_value + entry, tl.sum(total, 1), mask=live)
        tl.store(token_of + entry, token, mask=live)


@triton.jit
@no_type_check
def _grad_weight(
    firing, token, value, up, down, to_down, grad, grad_weight, n_edges, n_down,
    SUMS: tl.constexpr, EDGES: tl.constexpr, FIRINGS: tl.constexpr,
):  # fmt: skip
    """grad_weight[e, h] = sum of value[p] grad[token[p], h, down(e)] over the firings p of up(e)."""
    head, n_heads = tl.program_id(1), tl.num_programs(1)
    slot = tl.program_id(0).to(tl.int64) * EDGES + tl.arange(0, EDGES)
    live = slot < n_edges
    # by downstream end: programs that run at one time read the same few columns of `grad`
    edge = tl.load(to_down + slot, mask=live, other=0).to(tl.int64)
    feature = tl.load(up + edge, mask=live, other=0)
    column = head * n_down + tl.load(down + edge, mask=live, other=0)[:, None]
    begin = tl.load(firing + feature, mask=live, other=0)[:, None]
    stop = tl.load(firing + feature + 1, mask=live, other=0)[:, None]
    total = tl.zeros([EDGES, FIRINGS], dtype=SUMS)
    for step in range(0, tl.max(stop - begin), FIRINGS):
        entry = begin + step + tl.arange(0, FIRINGS)[None, :]
        inside = entry < stop
        activation = tl.load(value + entry, mask=inside, other=0).to(SUMS)
        row = tl.load(token + entry, mask=inside, other=0) * n_heads * n_down
        total += activation * tl.load(grad + row + column, mask=inside, other=0).to(SUMS)
    tl.store(grad_weight + edge * n_heads + head, tl.sum(total, 1), mask=live)
