"""Every backend against the dense equivalent of each operation, forward and backward, on ragged random input (I6)."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scae.core.typing import Tensor
from scae.kernels import (
    Arrivals,
    Edges,
    SparseCode,
    Support,
    Upstream,
    arrive,
    arrive_everywhere,
    arrived_by_edge,
    decode,
    edge_weights,
    encode_at,
    largest,
    products_at,
    spmm_transposed,
    use,
)
from scae.kernels.arrivals import move, move_back

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
    heads=st.sampled_from([1, 3, 9]),
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
@given(case=CASES)
@example(case=FULL)
@example(case=NOTHING)
def test_encode_at(backend: str, case: Case) -> None:
    generator = torch.Generator().manual_seed(case.seed)
    draw = case.random(generator)
    size = case.sizes[0]
    support = case.support(generator, size)
    x, encoder, bias = draw(case.tokens, case.width), draw(size, case.width), draw(size)

    def all_of_them() -> Tensor:
        return x @ encoder.T + bias

    code = SparseCode.where(support, all_of_them().detach())
    check(
        case,
        backend,
        [x, encoder, bias],
        lambda: encode_at(code, x, encoder, bias),
        lambda: all_of_them()[code.row, code.col],
    )


@dataclass(frozen=True)
class Way:
    """Random codes, connections and a mover, and what arrives as dense algebra says it."""

    values: list[Tensor]
    codes: list[SparseCode]
    edges: Edges
    weight: Tensor
    mover: Tensor

    @classmethod
    def random(cls, case: Case, windows: int, at_attention: bool) -> "Way":
        case = replace(case, tokens=case.tokens * windows, heads=case.heads if at_attention else 1)
        generator = torch.Generator().manual_seed(case.seed)
        draw = case.random(generator)
        edges, _ = case.edges(generator)
        supports = [case.support(generator, size) for size in case.sizes]
        values = [draw(int(support.sum())) for support in supports]
        codes = [code_and_dense(support, value)[0] for support, value in zip(supports, values, strict=True)]
        window = case.tokens // windows
        if at_attention:
            mover = draw(windows, window, window, case.heads).detach()
            mover = mover * torch.ones(window, window).tril()[None, :, :, None].to(case.dtype)
        else:
            mover = draw(case.tokens).detach()
        return cls(values, codes, edges, draw(len(edges), case.heads), mover)

    def to(self, device: str) -> "Way":
        """The same elsewhere, its values leaves again."""
        values = [value.detach().to(device).requires_grad_() for value in self.values]
        edges = Edges(*(tensor.to(device) for tensor in self.edges.tensors))
        codes = [
            SparseCode(Support(code.crow.to(device), code.col.to(device), code.n_features), value)
            for code, value in zip(self.codes, values, strict=True)
        ]
        return Way(values, codes, edges, self.weight.detach().to(device).requires_grad_(), self.mover.to(device))

    @property
    def arrivals(self) -> Arrivals:
        return Arrivals(Upstream.from_codes(self.codes), self.edges, self.weight, self.mover)

    def dense(self) -> Tensor:
        activations = torch.cat([code.dense() for code in self.codes], dim=1)
        matrix = torch.zeros(self.edges.n_down, self.edges.n_up, self.weight.shape[1], dtype=self.weight.dtype)
        matrix = matrix.index_put((self.edges.down, self.edges.up), self.weight)
        contributions = torch.einsum("nj,ijh->nhi", activations, matrix)
        if self.mover.ndim == 1:
            return self.mover[:, None] * contributions[:, 0]
        by_window = contributions.view(*self.mover.shape[:2], *contributions.shape[1:])
        return torch.einsum("wqkh,wkhi->wqi", self.mover, by_window).flatten(0, 1)


in_windows = given(case=CASES, windows=st.integers(1, 3), at_attention=st.booleans())


@on_each_backend
@on_random_input
@in_windows
@example(case=FULL, windows=2, at_attention=True)
@example(case=FULL, windows=1, at_attention=False)
@example(case=NOTHING, windows=1, at_attention=True)
def test_arrive_and_the_gradients_of_what_arrived(backend: str, case: Case, windows: int, at_attention: bool) -> None:
    """With the gradient of the code of every upstream site, and in parts what arrives as a whole."""
    way = Way.random(case, windows, at_attention)
    generator = torch.Generator().manual_seed(case.seed + 1)
    tolerance = {"rtol": 1e-10, "atol": 1e-11} if case.double else {"rtol": 1e-4, "atol": 1e-5}
    tokens = case.tokens * windows
    with use(backend):
        arrived = arrive(way.arrivals)
        step = way.arrivals.window
        parts = [arrive(way.arrivals.tokens(start, start + step)) for start in range(0, tokens, step)]
    torch.testing.assert_close(arrived, way.dense().detach(), **tolerance)
    torch.testing.assert_close(torch.cat(parts), arrived, **tolerance)
    assert not arrived.requires_grad

    draw = case.random(generator)
    support = torch.rand(tokens, case.down, generator=generator) < case.filled
    x, encoder, bias = draw(tokens, case.width), draw(case.down, case.width), draw(case.down)

    def all_of_them() -> Tensor:
        return x @ encoder.T + bias + way.dense()

    code = SparseCode.where(support, all_of_them().detach())
    check(
        case,
        backend,
        [*way.values, way.weight, x, encoder, bias],
        lambda: encode_at(code, x, encoder, bias, way.arrivals),
        lambda: all_of_them()[code.row, code.col],
    )


@on_each_backend
@on_random_input
@in_windows
@example(case=FULL, windows=2, at_attention=True)
@example(case=FULL, windows=1, at_attention=False)
@example(case=NOTHING, windows=1, at_attention=True)
def test_arriving_everywhere_has_gradients(backend: str, case: Case, windows: int, at_attention: bool) -> None:
    """Its values are those of `arrive`, to the bit; without gradients it is nothing else."""
    way = Way.random(case, windows, at_attention)
    inputs = [*way.values, way.weight]
    check(case, backend, inputs, lambda: arrive_everywhere(way.arrivals), way.dense)
    with use(backend):
        expected = arrive(way.arrivals)
        assert torch.equal(arrive_everywhere(way.arrivals), expected)
        with torch.no_grad():
            alone = arrive_everywhere(way.arrivals)
    assert torch.equal(alone, expected)
    assert not alone.requires_grad


@on_each_backend
@on_random_input
@in_windows
@example(case=FULL, windows=2, at_attention=True)
@example(case=FULL, windows=1, at_attention=False)
@example(case=NOTHING, windows=1, at_attention=True)
def test_what_arrives_along_each_edge(backend: str, case: Case, windows: int, at_attention: bool) -> None:
    """Against the dense tensor of everything that arrives, edge by edge; together it is what `arrive` gives there."""
    way = Way.random(case, windows, at_attention)
    generator = torch.Generator().manual_seed(case.seed + 2)
    tokens = case.tokens * windows
    kept = torch.rand(tokens, case.down, generator=generator) < case.filled
    at = SparseCode.where(kept, torch.rand(tokens, case.down, generator=generator, dtype=case.dtype))
    with use(backend):
        found, arrived = arrived_by_edge(way.arrivals, at), arrive(way.arrivals)
    edges, weight = way.edges, way.weight.detach()
    activations = torch.cat([code.dense() for code in way.codes], dim=1).detach()
    along = activations[:, edges.up.long(), None] * weight  # [token, edge, head], at the upstream end
    if at_attention:
        by_window = along.view(*way.mover.shape[:2], *along.shape[1:])
        moved = torch.einsum("wqkh,wkeh->wqe", way.mover, by_window).flatten(0, 1)
    else:
        moved = way.mover[:, None] * along[..., 0]
    expected = (moved * at.dense()[:, edges.down.long()]).sum(0)
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if case.double else {"rtol": 1e-3, "atol": 1e-3}
    torch.testing.assert_close(found, expected, **tolerance)
    torch.testing.assert_close(found.sum(), (arrived * at.dense()).sum(), **tolerance)
    assert not found.requires_grad


@on_each_backend
@pytest.mark.parametrize("at_attention", [False, True])
def test_gradients_of_arriving_everywhere_are_those_of_finite_differences(backend: str, at_attention: bool) -> None:
    way = Way.random(FULL, 2, at_attention)
    assert len(way.edges) > 0

    def arrived(weight: Tensor, *values: Tensor) -> Tensor:
        codes = [code.with_values(value) for code, value in zip(way.codes, values, strict=True)]
        return arrive_everywhere(replace(way, codes=codes, weight=weight).arrivals)

    with use(backend):
        assert torch.autograd.gradcheck(arrived, (way.weight, *way.values), eps=1e-6, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("at_attention", [False, True])
@pytest.mark.parametrize("tokens", [1, 4])
def test_what_runs_on_a_gpu_is_the_same(tokens: int, at_attention: bool) -> None:
    """Every operation in a row, by Triton's interpreter where there is no GPU (`test_cuda.py` has more, one by one)."""
    pytest.importorskip("triton", reason="the gpu extra is not installed")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    way = Way.random(replace(FULL, tokens=tokens, double=False), 2, at_attention).to(device)
    x, encoder, bias = (torch.randn(*shape, device=device) for shape in ((2 * tokens, 3), (4, 3), (4,)))
    live = torch.ones(2 * tokens, dtype=torch.bool, device=device)
    leaves = [*way.values, way.weight, encoder]
    found = []
    for backend in ("reference", "cuda"):
        with use(backend):
            encoder = encoder.detach().requires_grad_()
            leaves[-1] = encoder
            code = largest(arrive(way.arrivals) + x @ encoder.T + bias, 2, live)
            code = code.with_values(encode_at(code, x, encoder, bias, way.arrivals))
            out = decode(code, encoder)
            found.append((out.detach(), *torch.autograd.grad(out.square().sum(), leaves, allow_unused=True)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("window", [1, 63, 64, 130, 300])
def test_moving_leaves_out_later_keys_only(window: int) -> None:
    mover = torch.rand(2, window, window, 3, dtype=torch.float64) * torch.ones(window, window).tril()[..., None]
    contributions = torch.randn(2 * window, 3, 5, dtype=torch.float64)
    by_window = contributions.view(2, window, 3, 5)
    torch.testing.assert_close(
        move(mover, contributions), torch.einsum("wqkh,wkhi->wqi", mover, by_window).flatten(0, 1)
    )
    grad = torch.randn(2 * window, 5, dtype=torch.float64)
    torch.testing.assert_close(
        move_back(mover, grad), torch.einsum("wqkh,wqi->wkhi", mover, grad.view(2, window, 5)).flatten(0, 1)
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
def test_tally(backend: str, case: Case) -> None:
    generator = torch.Generator().manual_seed(case.seed)
    draw = case.random(generator)
    support = case.support(generator, case.sizes[0])
    value, table = draw(int(support.sum())), draw(case.tokens, case.width)
    code, dense = code_and_dense(support, value)
    with use(backend):
        found = spmm_transposed(code, table)
    tolerance = {"rtol": 1e-10, "atol": 1e-11} if case.double else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(found, (dense.T @ table).detach(), **tolerance)
    assert not found.requires_grad


@on_each_backend
@on_random_input
@given(case=CASES)
def test_products_at(backend: str, case: Case) -> None:
    generator = torch.Generator().manual_seed(case.seed)
    draw, support = case.random(generator), case.support(generator, case.down)
    x, table = draw(case.tokens, case.width), draw(case.down, case.width)
    with use(backend):
        found = products_at(SparseCode.where(support, support.to(case.dtype)).support, x, table)
    tolerance = {"rtol": 1e-10, "atol": 1e-11} if case.double else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(found, (x @ table.T)[support].detach(), **tolerance)
    assert not found.requires_grad


@on_each_backend
@pytest.mark.parametrize("learns", ["value", "decoder"])
@on_random_input
@given(case=CASES)
def test_decode_where_one_side_is_frozen(backend: str, learns: str, case: Case) -> None:
    generator = torch.Generator().manual_seed(case.seed)
    draw, support = case.random(generator), case.support(generator, case.down)
    given_ = {"value": draw(int(support.sum())), "decoder": draw(case.down, case.width)}
    for name, tensor in given_.items():
        tensor.requires_grad_(name == learns)
    code, dense = code_and_dense(support, given_["value"])
    check(
        case, backend, [given_[learns]],
        lambda: decode(code, given_["decoder"]), lambda: dense @ given_["decoder"],
    )  # fmt: skip


@on_each_backend
@on_random_input
@given(
    case=CASES,
    features=st.sampled_from([1, 6, 65, 300]),
    share=st.floats(0, 1),
    shift=st.sampled_from([-3, -0.5, 0, 3]),
)
def test_largest(backend: str, case: Case, features: int, share: float, shift: float) -> None:
    """Equal entries included: how many of them are kept is determined, which of them is not."""
    generator = torch.Generator().manual_seed(case.seed)
    draw, k = case.random(generator), round(share * features)
    pre = draw(case.tokens, features) + shift
    if case.silent:
        pre = pre.round()
    live = torch.rand(case.tokens, generator=generator) < 0.7
    with use(backend):
        code, again = largest(pre, k, live), largest(pre, k, live)
    assert (code.n_features, code.n_tokens, code.value.requires_grad) == (features, case.tokens, False)
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
    assert torch.equal(edges.ptr.diff().long(), kept.sum(0))
    assert torch.equal(edges.down_ptr.diff().long(), kept.sum(1))
    assert torch.equal(torch.stack([edges.down[edges.to_down], edges.up_by_down], 1), kept.nonzero())
    assert torch.equal(edges.up[edges.to_down], edges.up_by_down.long())
    assert torch.equal(edges.up_by_down[edges.to_up].long(), edges.up)
    assert {tensor.dtype for tensor in edges.tensors} == {torch.int32}
    some, sources = edges.from_sources()
    assert torch.equal(sources, kept.any(0).nonzero()[:, 0])
    assert torch.equal(sources[some.up], edges.up)
    assert torch.equal(sources[some.up_by_down], edges.up_by_down.long())
    assert torch.equal(some.down, edges.down)


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
