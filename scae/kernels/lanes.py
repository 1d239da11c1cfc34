"""Eight numbers at a time inside numba functions, which compiled Python has no words for.

The heads of an edge lie side by side. A loop over so few numbers is not made into vector instructions by the compiler
(it unrolls it first), so these say it: `load`, `store`, `add_scaled`, `dot` on values of the type `Lanes`. Positions
count elements of the flat array, which has to be contiguous; nothing checks them.
"""

from collections.abc import Sequence
from typing import Any, no_type_check

from llvmlite import ir
from numba import types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

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
