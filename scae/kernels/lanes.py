"""The two walks along edges that have a number for every head: eight heads at a time.

The heads of an edge lie side by side. A loop over so few numbers is not made into vector instructions by the compiler
(it unrolls it first), and compiled Python has no words for them, so `load`, `store`, `add_scaled` and `dot` say it on
values of the type `Lanes`. Positions count elements of the flat array, which has to be contiguous; nothing checks them.
The walks stand in this file with what they are made of: numba keeps compiled functions on disk by the content of their
own file alone.
"""

from collections.abc import Sequence
from typing import Any, no_type_check

import numpy as np
import torch.nn.functional as F
from llvmlite import ir
from numba import njit, prange, types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from scae.core.typing import Float, Tensor

LANES = 8
"""Of float32, one AVX register; of float64, two."""


class Lanes(types.Type):
    """The numba type of `LANES` numbers of one dtype."""

    def __init__(self, dtype: types.Type) -> None:
        self.dtype = dtype
        super().__init__(name=f"Lanes({dtype})")


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):
    """What they are in machine code: an LLVM vector."""

    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, ir.VectorType(manager.lookup(lanes.dtype).get_value_type(), LANES))


def in_lanes(heads: Float[Tensor, "*rows head"]) -> Float[Tensor, "*rows lane"]:
    """As many heads as fill the lanes, those that there are not zero."""
    missing = -heads.shape[-1] % LANES
    return F.pad(heads, (0, missing)) if missing else heads


@njit(parallel=True, cache=True, fastmath=True)
@no_type_check
def spread(crow, col, value, ptr, down, weight, out, chunks):
    """`out[n, h, down]`: the activations of token n's stored features, each times its out-edges' weights at head h."""
    n_tokens, n_heads, n_down = out.shape
    width = weight.shape[1]
    for chunk in prange(chunks):
        heads_last = np.empty((n_down, width), dtype=out.dtype)  # stays in cache while a token is walked
        for n in range(chunk * n_tokens // chunks, (chunk + 1) * n_tokens // chunks):
            heads_last[:] = 0
            for site in range(len(crow)):
                for p in range(crow[site, n], crow[site, n + 1]):
                    v = value[p]
                    first, end = ptr[col[p]], ptr[col[p] + 1]
                    for h in range(0, width, LANES):
                        for e in range(first, end):
                            at = np.int64(down[e]) * width + h
                            along = load(weight, np.int64(e) * width + h)
                            store(heads_last, at, add_scaled(load(heads_last, at), v, along))
            for h in range(n_heads):
                for i in range(n_down):
                    out[n, h, i] = heads_last[i, h]


@njit(parallel=True, cache=True, fastmath=True)
@no_type_check
def spread_backward(up_ptr, up_pos, value, down_ptr, up, weight, at_ptr, at_pos, grad, mover, grad_value, grad_weight):
    """A window and a downstream feature at a time: its gradient at every key and head lies open while its in-edges are
    walked, each along the firings of its upstream feature in the window."""
    chunks, width = len(grad_value), weight.shape[1]
    n_windows, n_down = at_ptr.shape[0], at_ptr.shape[1] - 1
    for chunk in prange(chunks):
        grad_here = grad_value[chunk]
        at_keys = np.empty(mover.shape[2], dtype=weight.dtype)
        for w in range(n_windows):
            for i in range(chunk, n_down, chunks):
                first, end = at_ptr[w, i], at_ptr[w, i + 1]
                if first == end:
                    continue
                keys = np.int64(at_pos[end - 1]) + 1
                at_keys[: keys * width] = 0
                for p in range(first, end):
                    g, row = grad[p], mover[w, at_pos[p]]
                    for x in range((np.int64(at_pos[p]) + 1) * width):
                        at_keys[x] += g * row[x]
                for e in range(down_ptr[i], down_ptr[i + 1]):
                    for h in range(0, width, LANES):
                        here = np.int64(e) * width + h
                        along, total = load(weight, here), load(grad_weight, here)
                        for p in range(up_ptr[w, up[e]], up_ptr[w, up[e] + 1]):
                            if up_pos[p] >= keys:
                                break
                            at_key = load(at_keys, np.int64(up_pos[p]) * width + h)
                            grad_here[p] += dot(along, at_key)
                            total = add_scaled(total, value[p], at_key)
                        store(grad_weight, here, total)


@intrinsic
@no_type_check
def load(_, array, at):
    """`array.flat[at : at + LANES]`."""

    def code(context, builder, signature, given):
        pointer, alignment = _pointer(context, builder, signature, given)
        return builder.load(pointer, align=alignment)

    return Lanes(array.dtype)(array, types.int64), code


@intrinsic
@no_type_check
def store(_, array, at, lanes):
    """`array.flat[at : at + LANES] = lanes`."""

    def code(context, builder, signature, given):
        pointer, alignment = _pointer(context, builder, signature, given)
        builder.store(given[2], pointer, align=alignment)
        return context.get_dummy_value()

    return types.void(array, types.int64, lanes), code


@intrinsic
@no_type_check
def add_scaled(_, lanes, factor, others):
    """`lanes + factor * others`."""

    def code(context, builder, signature, given):
        lanes, factor, others = given
        unset = ir.Constant(lanes.type, ir.Undefined)
        first = builder.insert_element(unset, factor, ir.Constant(ir.IntType(32), 0))
        everywhere = builder.shuffle_vector(first, unset, _indices([0] * LANES))
        return builder.fadd(lanes, builder.fmul(everywhere, others, flags=("fast",)), flags=("fast",))

    return lanes(lanes, lanes.dtype, others), code


@intrinsic
@no_type_check
def dot(_, left, right):
    """`sum(left * right)`."""

    def code(context, builder, signature, given):
        terms, n = builder.fmul(*given, flags=("fast",)), LANES
        while n > 1:
            n //= 2
            unset = ir.Constant(terms.type, ir.Undefined)
            halves = [builder.shuffle_vector(terms, unset, _indices(range(at, at + n))) for at in (0, n)]
            terms = builder.fadd(*halves, flags=("fast",))
        return builder.extract_element(terms, ir.Constant(ir.IntType(32), 0))

    return left.dtype(left, right), code


def _pointer(context: Any, builder: ir.IRBuilder, signature: Any, given: Any) -> tuple[Any, int]:
    """To the lanes at `given[1]` of the array `given[0]`, and the alignment that can be counted on: an element's."""
    array = context.make_array(signature.args[0])(context, builder, given[0])
    element = context.get_value_type(signature.args[0].dtype)
    at = builder.gep(array.data, [given[1]])
    return builder.bitcast(at, ir.VectorType(element, LANES).as_pointer()), context.get_abi_alignment(element)


def _indices(lanes: Sequence[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
