"""The sparse operations with their gradients, whatever the backend.

Each is `dense equivalent` in one line; none forms anything of size tokens x all features or features x features.
The choice of the entries of a code (`SparseCode.crow`, `.col`) carries no gradient: the derivative of a TopK, a
threshold or a ReLU is the identity where it lets through and zero elsewhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from scae.kernels import cpu, reference
from scae.kernels.code import SparseCode
from scae.kernels.edges import Edges
from scae.typing import Bool, Float, Tensor

BACKENDS: dict[str, ModuleType] = {"reference": reference, "cpu": cpu}
_forced: list[str] = []


@contextmanager
def use(backend: str) -> Iterator[None]:
    """Run every operation inside the block on this backend, whatever the device; for tests."""
    _forced.append(backend)
    try:
        yield
    finally:
        _forced.pop()


def backend_for(tensor: Tensor) -> ModuleType:
    """The fastest backend for tensors like this one."""
    if _forced:
        return BACKENDS[_forced[-1]]
    return cpu if tensor.device.type == "cpu" else reference


def largest(pre: Float[Tensor, "token feature"], k: int, live: Bool[Tensor, " token"]) -> SparseCode:
    """The k largest positive entries of each live row; carries no gradient."""
    return backend_for(pre).largest(pre.detach(), k, live)


def decode(code: SparseCode, decoder: Float[Tensor, "feature d_model"]) -> Float[Tensor, "token d_model"]:
    """`code.dense() @ decoder`."""
    return _Decode.apply(code.value, decoder, code.with_values(code.value.detach()))


def encode_at(
    code: SparseCode,
    x: Float[Tensor, "token d_model"],
    encoder: Float[Tensor, "feature d_model"],
    bias: Float[Tensor, " feature"],
    added: Float[Tensor, "token feature"] | None = None,
) -> Float[Tensor, " nnz"]:
    """`(x @ encoder.T + bias + added)[code.row, code.col]`: values that the code holds, with their gradients."""
    return _EncodeAt.apply(x, encoder, bias, added, code)


def edge_weights(
    edges: Edges, read: Float[Tensor, "down head r"], write: Float[Tensor, "up head r"]
) -> Float[Tensor, "edge head"]:
    """`einsum("ihr,jhr->ijh", read, write)[edges.down, edges.up]`."""
    return _EdgeWeights.apply(read, write, edges)


def spread(
    codes: list[SparseCode], edges: Edges, weight: Float[Tensor, "edge head"]
) -> Float[Tensor, "token head down"]:
    """`einsum("nj,ijh->nhi", dense activations, dense matrix of the edge weights)`."""
    stored = [code.with_values(code.value.detach()) for code in codes]
    return _Spread.apply(torch.cat([code.value for code in codes]), weight, stored, edges)


def tally(code: SparseCode, table: Float[Tensor, "token r"]) -> Float[Tensor, "feature r"]:
    """`code.dense().T @ table`; for statistics, so it carries no gradient."""
    return _bag_transposed(code, code.value.detach(), table.detach())


def _bag(code: SparseCode, value: Tensor, table: Tensor) -> Tensor:
    """`code.dense() @ table`."""
    return backend_for(table).bag(code.crow, code.col, value[:, None], table[:, None])[:, 0]


def _bag_transposed(code: SparseCode, value: Tensor, table: Tensor) -> Tensor:
    """`code.dense().T @ table`."""
    ptr, order = code.support.by_feature
    return backend_for(table).bag(ptr, code.row[order], value[order, None], table[:, None])[:, 0]


class _Decode(Function):
    @staticmethod
    def forward(ctx, value, decoder, code):
        ctx.save_for_backward(value, decoder)
        ctx.code = code
        return _bag(code, value, decoder)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        value, decoder = ctx.saved_tensors
        code = ctx.code
        grad_value = grad_decoder = None
        if ctx.needs_input_grad[0]:
            grad_value = backend_for(grad).sampled(code.row, code.col, grad[:, None], decoder[:, None])[:, 0]
        if ctx.needs_input_grad[1]:
            grad_decoder = _bag_transposed(code, value, grad)
        return grad_value, grad_decoder, None


class _EncodeAt(Function):
    @staticmethod
    def forward(ctx, x, encoder, bias, added, code):
        ctx.save_for_backward(x, encoder)
        ctx.code = code
        return code.value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, encoder = ctx.saved_tensors
        code = ctx.code
        grad_x = grad_encoder = grad_bias = grad_added = None
        if ctx.needs_input_grad[0]:
            grad_x = _bag(code, grad, encoder)
        if ctx.needs_input_grad[1]:
            grad_encoder = _bag_transposed(code, grad, x)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.new_zeros(code.n_features).index_add(0, code.col, grad)
        if ctx.needs_input_grad[3]:
            grad_added = code.with_values(grad).dense()
        return grad_x, grad_encoder, grad_bias, grad_added, None


class _EdgeWeights(Function):
    @staticmethod
    def forward(ctx, read, write, edges):
        ctx.save_for_backward(read, write)
        ctx.edges = edges
        return backend_for(read).sampled(edges.down, edges.up, read, write)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        read, write = ctx.saved_tensors
        edges, backend = ctx.edges, backend_for(grad)
        grad_read = grad_write = None
        if ctx.needs_input_grad[0]:
            order = edges.down_order
            grad_read = backend.bag(edges.down_ptr, edges.up[order], grad[order], write)
        if ctx.needs_input_grad[1]:
            grad_write = backend.bag(edges.ptr, edges.down, grad, read)
        return grad_read, grad_write, None


class _Spread(Function):
    @staticmethod
    def forward(ctx, value, weight, codes, edges):
        ctx.save_for_backward(weight)
        ctx.codes, ctx.edges = codes, edges
        return backend_for(weight).spread(codes, edges, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (weight,) = ctx.saved_tensors
        grad_value, grad_weight = backend_for(grad).spread_backward(ctx.codes, ctx.edges, weight, grad)
        return grad_value, grad_weight, None, None
