"""The sparse operations with their gradients, whatever the backend.

Each is `dense equivalent` in one line; none forms anything of size features x features, or tokens x all features
upstream. The choice of the entries of a code (`SparseCode.crow`, `.col`) carries no gradient: the derivative of a TopK,
a threshold or a ReLU is the identity where it lets through and zero elsewhere.

They are registered with torch (`torch.ops.scae`), so that autograd, `torch.compile` and autocast, under which they
compute in float32, treat them as operations like any other.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from importlib import import_module
from types import ModuleType

import torch
from torch.library import custom_op, register_autocast

from scae.core.typing import Bool, Float, Tensor
from scae.kernels.arrivals import Arrivals, Upstream
from scae.kernels.code import SparseCode, Support
from scae.kernels.edges import Edges

NO_EDGES = [None] * len(fields(Edges))
"""What edges have for a gradient."""
_forced: list[str] = []


@contextmanager
def use(backend: str) -> Iterator[None]:
    """Run every operation inside the block on this backend (reference, cpu, cuda), whatever the device; for tests."""
    _forced.append(backend)
    try:
        yield
    finally:
        _forced.pop()


def backend_for(tensor: Tensor) -> ModuleType:
    """The fastest backend for tensors like this one."""
    name = _forced[-1] if _forced else tensor.device.type
    if name not in ("cpu", "cuda"):
        name = "reference"
    backend = import_module(f"scae.kernels.{name}")  # cuda needs triton, which comes with torch's own builds for CUDA
    if name == "cpu":
        backend.threads()
    return backend


def largest(pre: Float[Tensor, "token feature"], k: int, live: Bool[Tensor, " token"]) -> SparseCode:
    """The k largest positive entries of each live row; carries no gradient."""
    crow, col, value = _largest(pre.detach(), k, live)
    return SparseCode(Support(crow, col, pre.shape[1]), value)


def decode(code: SparseCode, decoder: Float[Tensor, "feature d_model"]) -> Float[Tensor, "token d_model"]:
    """`code.dense() @ decoder`."""
    return _decode(code.value, decoder, code.crow, code.col)


def encode_at(
    code: SparseCode,
    x: Float[Tensor, "token d_model"],
    encoder: Float[Tensor, "feature d_model"],
    bias: Float[Tensor, " feature"],
    arrivals: Arrivals | None = None,
) -> Float[Tensor, " nnz"]:
    """`(x @ encoder.T + bias + arrive(arrivals))[code.row, code.col]`: the values that the code holds, with their
    gradients. They are taken as they are, not computed again."""
    if arrivals is None:
        return _encode_at(code.value, x, encoder, bias, code.crow, code.col)
    up, edges = arrivals.upstream, arrivals.edges
    value = _arrived_at(
        code.value, up.value, arrivals.weight, code.crow, code.col, up.crow, up.col, arrivals.mover, edges.tensors
    )
    return _encode_at(value, x, encoder, bias, code.crow, code.col)


def arrive(arrivals: Arrivals) -> Float[Tensor, "token down"]:
    """`einsum("wqkh,wkj,ijh->wqi", mover, activations, matrix of the weights)`, see `Arrivals`; carries no gradient."""
    up = arrivals.upstream
    return _arrive(up.crow, up.col, up.value.detach(), arrivals.weight.detach(), arrivals.mover, arrivals.edges.tensors)


def arrive_everywhere(arrivals: Arrivals) -> Float[Tensor, "token down"]:
    """`arrive` with its gradients, for sites that keep every feature: they cost (tokens) x (connections)."""
    value, up, edges = arrive(arrivals), arrivals.upstream, arrivals.edges
    if not torch.is_grad_enabled():
        return value
    n_tokens, n_down = value.shape
    crow = torch.arange(0, value.numel() + 1, n_down, device=value.device)
    col = torch.arange(n_down, device=value.device).repeat(n_tokens)
    passed = _arrived_at(
        value.flatten(), up.value, arrivals.weight, crow, col, up.crow, up.col, arrivals.mover, edges.tensors
    )
    return passed.view_as(value)


def arrived_by_edge(arrivals: Arrivals, at: SparseCode) -> Float[Tensor, " edge"]:
    """Of each edge, what arrives along it at the entries of a code of the downstream features, weighed by its values:
    `sum_wqi at_wqi sum_kh mover_wqkh activations_wkj weight_ijh`, the parts that `arrive` adds up; carries no gradient.

    `arrive` is linear in the weights: each has its part in the sum in proportion to its derivative.
    """
    up, edges = arrivals.upstream, arrivals.edges
    _, by_weight = _arrived_at_backward(
        at.value.detach(), up.value.detach(), arrivals.weight.detach(), at.crow, at.col, up.crow, up.col,
        arrivals.mover, edges.tensors,
    )  # fmt: skip
    return (by_weight * arrivals.weight.detach()).sum(1)


def edge_weights(
    edges: Edges, read: Float[Tensor, "down head r"], write: Float[Tensor, "up head r"]
) -> Float[Tensor, "edge head"]:
    """`einsum("ihr,jhr->ijh", read, write)[edges.down, edges.up]`."""
    return _edge_weights(read, write, edges.tensors)


def spmm_transposed(code: SparseCode, table: Float[Tensor, "token r"]) -> Float[Tensor, "feature r"]:
    """`code.dense().T @ table`; for statistics, so it carries no gradient."""
    return _spmm_transposed(code.value.detach(), table.detach(), code.crow, code.col, code.n_features)


def products_at(
    support: Support, x: Float[Tensor, "token r"], table: Float[Tensor, "feature r"]
) -> Float[Tensor, " nnz"]:
    """`(x @ table.T)[support.row, support.col]`; carries no gradient."""
    return _products_at(x.detach(), table.detach(), support.crow, support.col)


@custom_op("scae::largest", mutates_args=())
def _largest(pre: Tensor, k: int, live: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return backend_for(pre).largest(pre, k, live)


@_largest.register_fake
def _(pre, k, live):
    entries = torch.library.get_ctx().new_dynamic_size()
    crow = pre.new_empty(pre.shape[0] + 1, dtype=torch.int64)
    return crow, pre.new_empty(entries, dtype=torch.int64), pre.new_empty(entries)


@custom_op("scae::spmm_transposed", mutates_args=())
def _spmm_transposed(value: Tensor, table: Tensor, crow: Tensor, col: Tensor, n_features: int) -> Tensor:
    """`dense matrix of the entries, transposed, @ table`."""
    return backend_for(table).spmm_transposed(crow, col, value, table, n_features)


@_spmm_transposed.register_fake
def _(value, table, crow, col, n_features):
    return table.new_empty(n_features, table.shape[1])


@custom_op("scae::products_at", mutates_args=())
def _products_at(x: Tensor, table: Tensor, crow: Tensor, col: Tensor) -> Tensor:
    return backend_for(table).sddmm(crow, col, x[:, None], table[:, None])[:, 0].contiguous()


_products_at.register_fake(lambda x, table, crow, col: x.new_empty(col.shape[0]))


@custom_op("scae::decode", mutates_args=())
def _decode(value: Tensor, decoder: Tensor, crow: Tensor, col: Tensor) -> Tensor:
    """`dense matrix of the entries @ decoder`."""
    return backend_for(decoder).spmm(crow, col, value[:, None], decoder[:, None])[:, 0].contiguous()


_decode.register_fake(lambda value, decoder, crow, col: decoder.new_empty(crow.shape[0] - 1, decoder.shape[1]))


@custom_op("scae::decode_backward", mutates_args=())
def _decode_backward(grad: Tensor, value: Tensor, decoder: Tensor, crow: Tensor, col: Tensor) -> tuple[Tensor, Tensor]:
    """Of `decode`: `grad @ decoder.T` at the entries, and `dense matrix of the entries, transposed, @ grad`."""
    return backend_for(decoder).decode_backward(crow, col, value, decoder, grad)


_decode_backward.register_fake(
    lambda grad, value, decoder, crow, col: (torch.empty_like(value), torch.empty_like(decoder))
)


def _decode_gradients(ctx, grad):
    value, decoder, crow, col = ctx.saved_tensors
    if not ctx.needs_input_grad[1]:  # a decoder that is frozen
        return _products_at(grad, decoder, crow, col), None, None, None
    if not ctx.needs_input_grad[0]:  # activations that nobody has computed from anything
        return None, _spmm_transposed(value, grad, crow, col, decoder.shape[0]), None, None
    return *_decode_backward(grad, value, decoder, crow, col), None, None


_decode.register_autograd(_decode_gradients, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs))


@custom_op("scae::encode_at", mutates_args=())
def _encode_at(value: Tensor, x: Tensor, encoder: Tensor, bias: Tensor, crow: Tensor, col: Tensor) -> Tensor:
    return value.clone()


_encode_at.register_fake(lambda value, x, encoder, bias, crow, col: torch.empty_like(value))


def _encode_at_backward(ctx, grad):
    x, encoder, bias, crow, col = ctx.saved_tensors
    grad_x = grad_encoder = grad_bias = None
    if ctx.needs_input_grad[1]:
        grad_x = _decode(grad, encoder, crow, col)
    if ctx.needs_input_grad[2]:
        grad_encoder = _spmm_transposed(grad, x, crow, col, encoder.shape[0])
    if ctx.needs_input_grad[3]:
        grad_bias = torch.zeros_like(bias).index_add(0, col, grad)
    return grad, grad_x, grad_encoder, grad_bias, None, None


_encode_at.register_autograd(
    _encode_at_backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs[1:])
)


@custom_op("scae::arrive", mutates_args=())
def _arrive(
    up_crow: Tensor, up_col: Tensor, up_value: Tensor, weight: Tensor, mover: Tensor,
    edges: Sequence[Tensor],
) -> Tensor:  # fmt: skip
    arrivals = Arrivals(Upstream(up_crow, up_col, up_value), Edges(*edges), weight, mover)
    return backend_for(weight).arrive(arrivals)


@_arrive.register_fake
def _(up_crow, up_col, up_value, weight, mover, edges):
    return weight.new_empty(up_crow.shape[1] - 1, Edges(*edges).n_down)


@custom_op("scae::arrived_at", mutates_args=())
def _arrived_at(
    value: Tensor, up_value: Tensor, weight: Tensor, crow: Tensor, col: Tensor, up_crow: Tensor, up_col: Tensor,
    mover: Tensor, edges: Sequence[Tensor],
) -> Tensor:  # fmt: skip
    """Passes `value` through, for the gradients of what arrived at its entries."""
    return value.clone()


@_arrived_at.register_fake
def _(value, *structure):
    return torch.empty_like(value)


@custom_op("scae::arrived_at_backward", mutates_args=())
def _arrived_at_backward(
    grad: Tensor, up_value: Tensor, weight: Tensor, crow: Tensor, col: Tensor, up_crow: Tensor, up_col: Tensor,
    mover: Tensor, edges: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    arrivals = Arrivals(Upstream(up_crow, up_col, up_value), Edges(*edges), weight, mover)
    at = SparseCode(Support(crow, col, arrivals.edges.n_down), grad)
    return backend_for(weight).arrive_backward(arrivals, at)


@_arrived_at_backward.register_fake
def _(grad, up_value, weight, *structure):
    return torch.empty_like(up_value), torch.empty_like(weight)


def _arrived_at_gradients(ctx, grad):
    grad_up = grad_weight = None
    if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
        saved = list(ctx.saved_tensors)
        grad_up, grad_weight = _arrived_at_backward(grad.contiguous(), *saved[:7], saved[7:])
    return grad, grad_up, grad_weight, None, None, None, None, None, NO_EDGES


_arrived_at.register_autograd(
    _arrived_at_gradients,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs[1:-1], *inputs[-1]),
)


@custom_op("scae::edge_weights", mutates_args=())
def _edge_weights(read: Tensor, write: Tensor, edges: Sequence[Tensor]) -> Tensor:
    along = Edges(*edges)
    return backend_for(read).sddmm(along.ptr, along.down, write, read)


_edge_weights.register_fake(lambda read, write, edges: read.new_empty(len(Edges(*edges)), read.shape[1]))


@custom_op("scae::edge_weights_backward", mutates_args=())
def _edge_weights_backward(grad: Tensor, read: Tensor, write: Tensor, edges: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    backend, along = backend_for(grad), Edges(*edges)
    grad_read = backend.spmm(along.down_ptr, along.up_by_down, grad.index_select(0, along.to_down), write)
    return grad_read, backend.spmm(along.ptr, along.down, grad, read)


_edge_weights_backward.register_fake(lambda grad, read, write, edges: (torch.empty_like(read), torch.empty_like(write)))


def _edge_weights_gradients(ctx, grad):
    read, write, *edges = ctx.saved_tensors
    return *_edge_weights_backward(grad, read, write, edges), NO_EDGES


_edge_weights.register_autograd(
    _edge_weights_gradients,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs[:2], *inputs[2]),
)

for _operation in (_largest, _spmm_transposed, _products_at, _decode, _encode_at, _arrive, _arrived_at, _edge_weights):
    for _device in ("cpu", "cuda"):
        register_autocast(_operation, _device, torch.float32)
