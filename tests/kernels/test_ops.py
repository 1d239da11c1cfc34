"""Every backend against the dense equivalent of each operation, forward and backward, on ragged random input (I6)."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scae.kernels import Edges, SparseCode, decode, edge_weights, encode_at, largest, spread, tally, use
from scae.typing import Tensor

BACKENDS = ("reference", "cpu")


@dataclass(frozen=True)
class Case:
    """The sizes of one random input, and how full it is."""

    seed: int
    tokens: int
    sizes: tuple[int, ...]  # features of each upstream site
    down: int
    heads: int
    width: int
    filled: float  # share of the entries of the codes that exist
    silent: bool  # the first half of the features of each site never fires
    connected: float  # share of the connections that exist
    double: bool
    strided: bool  # no floating point input is contiguous

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.double else torch.float32

    def random(self, generator: torch.Generator) -> Callable[..., Tensor]:
        """Random tensors of the case's dtype, contiguous or not, that require gradients."""

        def draw(*shape: int) -> Tensor:
            if self.strided:
                *rest, last = shape
                wide = torch.randn(2 * last, *rest, generator=generator, dtype=self.dtype)
                out = wide[::2].movedim(0, -1).detach()
                assert out.shape == shape
            else:
                out = torch.randn(*shape, generator=generator, dtype=self.dtype)
            return out.requires_grad_()

        return draw

    def support(self, generator: torch.Generator, size: int) -> Tensor:
        """Where the entries of a code are; of more than one token, the first has none."""
        kept = torch.rand(self.tokens, size, generator=generator) < self.filled
        if self.silent:
            kept[:, : (size + 1) // 2] = False
        if self.tokens > 1:
            kept[0] = False
        return kept

    def edges(self, generator: torch.Generator) -> tuple[Edges, Tensor]:
        """The edges and the same as a matrix `[down, up]`; of more than one downstream feature, the first has none."""
        kept = torch.rand(self.down, sum(self.sizes), generator=generator) < self.connected
        if self.down > 1:
            kept[0] = False
        crow = torch.cat([torch.zeros(1, dtype=torch.int64), kept.sum(1).cumsum(0)])
        return Edges.from_csr(crow.int(), kept.nonzero()[:, 1].int(), sum(self.sizes)), kept


CASES = st.builds(
    Case,
    seed=st.integers(0, 2**31),
    tokens=st.integers(1, 5),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple),
    down=st.integers(1, 6),
    heads=st.sampled_from([1, 3]),
    width=st.integers(1, 5),
    filled=st.sampled_from([0.0, 0.4, 1.0]),
    silent=st.booleans(),
    connected=st.sampled_from([0.0, 0.4, 1.0]),
    double=st.booleans(),
    strided=st.booleans(),
)
FULL = Case(0, 4, (3, 5), 4, 3, 3, 0.5, False, 0.5, True, False)
NOTHING = Case(0, 1, (1,), 1, 1, 1, 0.0, True, 0.0, True, False)

on_each_backend = pytest.mark.parametrize("backend", BACKENDS)
on_random_input = settings(deadline=None, max_examples=60, derandomize=True)


def check(
    case: Case, backend: str, inputs: list[Tensor], sparse: Callable[[], Tensor], dense: Callable[[], Tensor]
) -> None:
    """Values and gradients of `sparse` on the backend are those of `dense`, and repeat to the bit.

    The gradient is once random and, as `sum` makes it, once a single number expanded to the shape of the output.
    """
    tolerance = {"rtol": 1e-10, "atol": 1e-11} if case.double else {"rtol": 1e-4, "atol": 1e-5}
    expected = dense()
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(case.seed), dtype=case.dtype)
    if case.strided:
        weights = torch.stack([weights, weights], dim=-1)[..., 0]

    def run(f: Callable[[], Tensor], g: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        out = f()
        gradients = torch.autograd.grad(g(out), inputs, allow_unused=True, retain_graph=True)
        return out.detach(), *(torch.zeros_like(i) if d is None else d for i, d in zip(inputs, gradients, strict=True))

    for functional in (lambda out: (out * weights).sum(), lambda out: out.sum()):
        theirs = run(dense, functional)
        with use(backend):
            ours, again = run(sparse, functional), run(sparse, functional)
        for one, other, twice in zip(ours, theirs, again, strict=True):
            assert one.dtype == other.dtype
            torch.testing.assert_close(one, other, **tolerance)
            assert torch.equal(one, twice), "two runs differ"


def code_and_dense(support: Tensor, value: Tensor) -> tuple[SparseCode, Tensor]:
    """A code with these values, and the same as a matrix."""
    code = SparseCode.where(support, support.to(value.dtype)).with_values(value)
    return code, torch.zeros(support.shape, dtype=value.dtype).index_put(support.nonzero(as_tuple=True), value)


@on_each_backend
@on_random_input
@given(case=CASES)
@example(case=FULL)
@example(case=NOTHING)
def test_decode(backend: str, case: Case) -> None:
    generator = torch.Generator().manual_seed(case.seed)
    draw = case.random(generator)
    support = case.support(generator, case.sizes[0])
    value, decoder = draw(int(support.sum())), draw(case.sizes[0], case.width)
    code, dense = code_and_dense(support, value)
    check(case, backend, [value, decoder], lambda: decode(code, decoder), lambda: dense @ decoder)


@on_each_backend
@on_random_input
@given(case=CASES, with_added=st.booleans())
@example(case=FULL, with_added=True)
@example(case=NOTHING, with_added=False)
def test_encode_at(backend: str, case: Case, with_added: bool) -> None:
    generator = torch.Generator().manual_seed(case.seed)
    draw = case.random(generator)
    size = case.sizes[0]
    support = case.support(generator, size)
    x, encoder, bias = draw(case.tokens, case.width), draw(size, case.width), draw(size)
    added = draw(case.tokens, size) if with_added else None
    inputs = [x, encoder, bias] if added is None else [x, encoder, bias, added]

    def all_of_them() -> Tensor:
        pre = x @ encoder.T + bias
        return pre if added is None else pre + added

    code = SparseCode.where(support, all_of_them().detach())
    check(
        case,
        backend,
        inputs,
        lambda: encode_at(code, x, encoder, bias, added),
        lambda: all_of_them()[code.row, code.col],
    )


@on_each_backend
@on_random_input
@given(case=CASES)
@example(case=FULL)
@example(case=NOTHING)
def test_edge_weights(backend: str, case: Case) -> None:
    generator = torch.Generator().manual_seed(case.seed)
    draw = case.random(generator)
    edges, _ = case.edges(generator)
    read, write = draw(case.down, case.heads, case.width), draw(sum(case.sizes), case.heads, case.width)
    check(
        case,
        backend,
        [read, write],
        lambda: edge_weights(edges, read, write),
        lambda: torch.einsum("ihr,jhr->ijh", read, write)[edges.down, edges.up],
    )


@on_each_backend
@on_random_input
@given(case=CASES)
@example(case=FULL)
@example(case=NOTHING)
def test_spread(backend: str, case: Case) -> None:
    """With the gradient of the code of every upstream site."""
    generator = torch.Generator().manual_seed(case.seed)
    draw = case.random(generator)
    edges, _ = case.edges(generator)
    supports = [case.support(generator, size) for size in case.sizes]
    values = [draw(int(support.sum())) for support in supports]
    weight = draw(len(edges), case.heads)
    pairs = [code_and_dense(support, value) for support, value in zip(supports, values, strict=True)]
    codes = [code for code, _ in pairs]

    def dense() -> Tensor:
        matrix = torch.zeros(case.down, edges.n_up, case.heads, dtype=case.dtype)
        matrix = matrix.index_put((edges.down, edges.up), weight)
        return torch.einsum("nj,ijh->nhi", torch.cat([d for _, d in pairs], dim=1), matrix)

    check(case, backend, [*values, weight], lambda: spread(codes, edges, weight), dense)


@on_each_backend
@on_random_input
@given(case=CASES)
@example(case=FULL)
@example(case=NOTHING)
def test_tally(backend: str, case: Case) -> None:
    generator = torch.Generator().manual_seed(case.seed)
    draw = case.random(generator)
    support = case.support(generator, case.sizes[0])
    value, table = draw(int(support.sum())), draw(case.tokens, case.width)
    code, dense = code_and_dense(support, value)
    with use(backend):
        found = tally(code, table)
    tolerance = {"rtol": 1e-10, "atol": 1e-11} if case.double else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(found, (dense.T @ table).detach(), **tolerance)
    assert not found.requires_grad


@on_each_backend
@on_random_input
@given(case=CASES, k=st.integers(1, 6), shift=st.sampled_from([-3.0, -0.5, 0.0, 3.0]))
def test_largest(backend: str, case: Case, k: int, shift: float) -> None:
    """Equal entries included: how many of them are kept is determined, which of them is not."""
    generator = torch.Generator().manual_seed(case.seed)
    draw = case.random(generator)
    pre = draw(case.tokens, 6) + shift
    if case.silent:
        pre = pre.round()
    live = torch.rand(case.tokens, generator=generator) < 0.7
    with use(backend):
        code, again = largest(pre, k, live), largest(pre, k, live)
    assert (code.n_features, code.n_tokens, code.value.requires_grad) == (6, case.tokens, False)
    assert torch.equal(code.value, pre[code.row, code.col])
    assert torch.equal(code.col, again.col)
    for n in range(case.tokens):
        entries = slice(int(code.crow[n]), int(code.crow[n + 1]))
        best = sorted((v for v in pre[n].tolist() if v > 0), reverse=True)[:k] if live[n] else []
        assert sorted(code.value[entries].tolist(), reverse=True) == best
        assert len(set(code.col[entries].tolist())) == len(best)


@on_random_input
@given(case=CASES, ends=st.tuples(st.integers(0, 6), st.integers(0, 6)))
def test_columns_of_a_code(case: Case, ends: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(case.seed)
    support = case.support(generator, 6)
    code = SparseCode.where(support, torch.randn(support.shape, generator=generator))
    start, stop = min(ends), max(ends)
    part = code.columns(slice(start, stop))
    assert (part.n_features, part.n_tokens) == (stop - start, code.n_tokens)
    assert torch.equal(part.dense(), code.dense()[:, start:stop])


@on_random_input
@given(case=CASES)
@example(case=FULL)
def test_edges_list_every_connection_by_both_ends(case: Case) -> None:
    edges, kept = case.edges(torch.Generator().manual_seed(case.seed))
    assert (edges.n_up, edges.n_down, len(edges)) == (sum(case.sizes), case.down, int(kept.sum()))
    by_up = kept.T.nonzero()
    assert torch.equal(torch.stack([edges.up, edges.down], 1), by_up)
    assert torch.equal(edges.ptr.diff(), kept.sum(0))
    assert torch.equal(edges.down_ptr.diff(), kept.sum(1))
    ordered = torch.stack([edges.down[edges.down_order], edges.up[edges.down_order]], 1)
    assert torch.equal(ordered, kept.nonzero())


@on_each_backend
def test_the_callers_list_may_change_before_the_backward(backend: str) -> None:
    """The pruned pass appends to its list of codes after every level."""
    generator = torch.Generator().manual_seed(0)
    found, kept = FULL.edges(generator)
    room = sum(FULL.sizes) + FULL.sizes[0]  # for what is appended: a wrong walk must not leave the arrays
    edges = Edges.from_csr(found.down_ptr, kept.nonzero()[:, 1], room)
    draw = FULL.random(generator)
    supports = [FULL.support(generator, size) for size in FULL.sizes]
    values = [draw(int(support.sum())) for support in supports]
    weight = draw(len(edges), FULL.heads)

    def gradients(spoil: Callable[[list[SparseCode]], object]) -> tuple[Tensor, ...]:
        codes = [code_and_dense(support, value)[0] for support, value in zip(supports, values, strict=True)]
        with use(backend):
            out = spread(codes, edges, weight)
            spoil(codes)
            return torch.autograd.grad(out.square().sum(), [*values, weight])

    untouched = gradients(lambda codes: None)
    for spoil in (lambda codes: codes.append(codes[0]), lambda codes: codes.clear(), lambda codes: codes.reverse()):
        for one, other in zip(gradients(spoil), untouched, strict=True):
            assert torch.equal(one, other)


def test_a_feature_fires_where_it_is_positive_only() -> None:
    """Regression (B4): a stored 0, or a negative value kept for a dead feature, is no firing."""
    support = torch.tensor([[True, True, True, False], [False, True, False, False]])
    code = SparseCode.where(support, torch.tensor([[1.0, 0.0, -2.0, 9.0], [9.0, 0.0, 9.0, 9.0]]))
    assert code.fired().tolist() == [True, False, False, False]


def test_use_ends_with_its_block_also_after_an_error() -> None:
    from scae.kernels import cpu, reference
    from scae.kernels.ops import backend_for

    def fail() -> None:
        with use("reference"):
            assert backend_for(torch.zeros(1)) is reference
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert backend_for(torch.zeros(1)) is cpu
