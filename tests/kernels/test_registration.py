"""The operations as torch sees them: registered well, compiled without a break, in float32 under autocast."""

import pytest
import torch

from scae.core.typing import Tensor
from scae.kernels import Edges, SparseCode, Upstream, decode, largest

TOKENS, WIDTH, UP, DOWN, HEADS, K = 6, 4, 7, 5, 2, 3


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape).requires_grad_()


@pytest.fixture
def edges() -> Edges:
    kept = torch.rand(DOWN, UP, generator=torch.Generator().manual_seed(0)) < 0.5
    crow = torch.cat([torch.zeros(1, dtype=torch.int64), kept.sum(1).cumsum(0)])
    return Edges.from_csr(crow, kept.nonzero()[:, 1], UP)


def step(
    x: Tensor, encoder: Tensor, bias: Tensor, decoder: Tensor, into: Tensor, mover: Tensor, edges: list[Tensor]
) -> Tensor:
    """Two dictionaries, the second behind connections: every operation and its gradient.

    Written with the bare operations: the run-time type checker on the functions around them is nothing to compile.
    """
    ops, live = torch.ops.scae, torch.ones(TOKENS, dtype=torch.bool)
    crow, col, value = ops.largest((x @ encoder.T + bias).detach(), K, live)
    value = ops.encode_at(value, x, encoder, bias, crow, col)
    heads = (-1, HEADS, -1)
    weight = ops.edge_weights(into[:, None].expand(heads), decoder[:, None].expand(heads), edges)
    arrived = ops.arrive(crow[None], col, value.detach(), weight.detach(), mover, edges)
    at_crow, at_col, at = ops.largest((arrived + x @ into.T).detach(), K, live)
    at = ops.arrived_at(at, value, weight, at_crow, at_col, crow[None], col, mover, edges)
    at = ops.encode_at(at, x, into, torch.zeros(DOWN), at_crow, at_col)
    ours = ops.decode(value, decoder, crow, col), ops.decode(at, into, at_crow, at_col)
    return (ours[0] - x).square().sum() + ours[1].square().sum()


def inputs(edges: Edges) -> tuple:
    torch.manual_seed(0)
    mover = torch.rand(2, 3, 3, HEADS) * torch.ones(3, 3).tril()[:, :, None]
    return leaf(TOKENS, WIDTH), leaf(UP, WIDTH), leaf(UP), leaf(UP, WIDTH), leaf(DOWN, WIDTH), mover, edges.tensors


def test_compiled_without_a_break_it_is_the_same(edges: Edges) -> None:
    given = inputs(edges)
    leaves = given[:5]
    expected = step(*given)
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)(*given)
    torch.testing.assert_close(compiled, expected)
    for ours, theirs in zip(torch.autograd.grad(compiled, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_operations_compute_in_float32(dtype: torch.dtype) -> None:
    value, decoder = torch.rand(3), torch.randn(4, 2)
    code = SparseCode.where(torch.tensor([[True, True, False, False], [False, False, True, False]]), torch.rand(2, 4))
    expected = decode(code.with_values(value), decoder.to(dtype).float())
    with torch.autocast("cpu", dtype=dtype):
        found = decode(code.with_values(value), decoder.to(dtype))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_torch_finds_nothing_wrong_with_the_registrations(edges: Edges) -> None:
    """Schema, fake tensors, autograd registration and tracing with symbolic sizes (`torch.library.opcheck`)."""
    x, encoder, bias, decoder, _, mover, _ = inputs(edges)
    ops = torch.ops.scae
    live = torch.ones(TOKENS, dtype=torch.bool)
    code = largest(x @ encoder.T + bias, K, live)
    up = Upstream.from_codes([code])
    weight = leaf(len(edges), HEADS)
    down = largest(torch.randn(TOKENS, DOWN), K, live)
    read, write = leaf(DOWN, HEADS, WIDTH), leaf(UP, HEADS, WIDTH)
    value = code.value.clone().requires_grad_()
    up_value = up.value.clone().requires_grad_()
    structure = (down.crow, down.col, up.crow, up.col, mover, edges.tensors)
    for operation, arguments in (
        (ops.largest, (x.detach() @ encoder.detach().T, K, live)),
        (ops.decode, (value, decoder, code.crow, code.col)),
        (ops.encode_at, (value, x, encoder, bias, code.crow, code.col)),
        (ops.spmm_transposed, (code.value, x.detach(), code.crow, code.col, UP)),
        (ops.products_at, (x.detach(), encoder.detach(), code.crow, code.col)),
        (ops.decode_backward, (x.detach(), code.value, encoder.detach(), code.crow, code.col)),
        (ops.edge_weights, (read, write, edges.tensors)),
        (ops.arrive, (up.crow, up.col, up.value, weight.detach(), mover, edges.tensors)),
        (ops.arrived_at, (down.value.clone().requires_grad_(), up_value, weight, *structure)),
    ):
        torch.library.opcheck(operation.default, arguments)
