"""The Triton kernels against dense torch, on ragged random input: on a GPU, or in Triton's interpreter without one."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from unittest.mock import patch

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scae.core.typing import Tensor
from scae.kernels.edges import Edges

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it while it is imported
pytest.importorskip("triton", reason="triton is not installed: pip install 'scae[gpu]'")

import triton.language as tl  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

if DEVICE == "cpu" and isinstance(tl.sum, JITFunction):
    pytest.skip("no GPU, and triton was imported before TRITON_INTERPRET=1 was set", allow_module_level=True)

from scae.kernels import cuda  # noqa: E402

TOLERANCE = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
    # sums in float32, then one rounding to 8 bits: to the nearest on a GPU; the interpreter cuts off what is too much
    torch.bfloat16: {"rtol": 2**-8 if DEVICE == "cuda" else 2**-7, "atol": 1e-5},
}


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
    silent: bool  # the first half of the features never fires
    connected: float  # share of the connections that exist
    dtype: torch.dtype
    strided: bool  # no input is contiguous
    outside: int  # tokens before and after those asked for
    tiny: bool  # tiles so small that every walk takes several

    @property
    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    @property
    def up(self) -> int:
        return sum(self.sizes)

    def given(self, tensor: Tensor) -> Tensor:
        """The tensor as an input: on the device, contiguous or not."""
        if tensor.is_floating_point():
            tensor = tensor.to(self.dtype)
        tensor = tensor.to(DEVICE)
        return torch.stack([tensor, tensor], dim=-1)[..., 0] if self.strided else tensor

    def draw(self, generator: torch.Generator, *shape: int) -> Tensor:
        return self.given(torch.randn(*shape, generator=generator, dtype=torch.float64))

    def support(self, generator: torch.Generator, rows: int, columns: int) -> Tensor:
        """Where the entries of a matrix are; of more than one row, the first has none."""
        kept = torch.rand(rows, columns, generator=generator) < self.filled
        if self.silent:
            kept[:, : (columns + 1) // 2] = False
        if rows > 1:
            kept[0] = False
        return kept

    def edges(self, generator: torch.Generator) -> Edges:
        kept = torch.rand(self.down, self.up, generator=generator) < self.connected
        if self.down > 1:
            kept[0] = False
        edges = Edges.from_csr(pointers(kept), kept.nonzero()[:, 1], self.up)
        return Edges(*map(self.given, edges.tensors))

    @contextmanager
    def tiles(self) -> Iterator[None]:
        """TILE holds two rows of the widest table here, the walks four edges or one edge of four entries."""
        with patch.multiple(cuda, PIECE=3, CHUNK=4, TILE=32, WALK=4) if self.tiny else nullcontext():
            yield


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
    dtype=st.sampled_from(list(TOLERANCE)),
    strided=st.booleans(),
    outside=st.sampled_from([0, 2]),
    tiny=st.booleans(),
)
FULL = Case(0, 4, (3, 5), 7, 3, 5, 1.0, False, 1.0, torch.float32, False, 1, True)
NOTHING = Case(0, 1, (1,), 1, 1, 1, 0.0, True, 0.0, torch.float32, False, 0, False)

on_random_input = settings(deadline=None, max_examples=25, derandomize=True)


def pointers(kept: Tensor) -> Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.int64), kept.sum(1).cumsum(0)])


def check(case: Case, found: Callable[[], tuple[Tensor, ...]], *expected: Tensor) -> None:
    """Values, to the rounding of the dtype, and the same ones in a second run."""
    with case.tiles():
        ours, again = found(), found()
    for one, twice, oracle in zip(ours, again, expected, strict=True):
        assert one.dtype == case.dtype
        torch.testing.assert_close(one.double().cpu(), oracle, **TOLERANCE[case.dtype])
        assert torch.equal(one, twice), "two runs differ"


def dense(kept: Tensor, value: Tensor) -> Tensor:
    """The entries `[nnz, ...]` as a matrix `[row, column, ...]` in float64."""
    out = torch.zeros(*kept.shape, *value.shape[1:], dtype=torch.float64)
    out[kept] = value.double().cpu()
    return out


def weights(case: Case, edges: Edges, weight: Tensor) -> Tensor:
    """The weights of the edges as a tensor `[down, up, head]` in float64."""
    out = torch.zeros(case.down, case.up, case.heads, dtype=torch.float64)
    out[edges.down.cpu(), edges.up.cpu()] = weight.double().cpu()
    return out


@on_random_input
@given(case=CASES)
@example(case=FULL)
@example(case=NOTHING)
def test_bag(case: Case) -> None:
    generator = case.generator
    kept = case.support(generator, case.tokens, case.up)
    crow, col = case.given(pointers(kept)), case.given(kept.nonzero()[:, 1])
    value, table = case.draw(generator, len(col), case.heads), case.draw(generator, case.up, case.heads, case.width)
    expected = torch.einsum("njh,jhr->nhr", dense(kept, value), table.double().cpu())
    check(case, lambda: (cuda.spmm(crow, col, value, table),), expected)


@on_random_input
@given(case=CASES)
@example(case=FULL)
@example(case=NOTHING)
def test_sampled(case: Case) -> None:
    generator = case.generator
    kept = case.support(generator, case.tokens, case.up)
    crow, col = case.given(pointers(kept)), case.given(kept.nonzero()[:, 1])
    left = case.draw(generator, case.tokens, case.heads, case.width)
    right = case.draw(generator, case.up, case.heads, case.width)
    expected = torch.einsum("nhr,jhr->njh", left.double().cpu(), right.double().cpu())[kept]
    check(case, lambda: (cuda.sddmm(crow, col, left, right),), expected)


@on_random_input
@given(case=CASES)
@example(case=FULL)
@example(case=NOTHING)
def test_gradients_of_a_decoding(case: Case) -> None:
    generator = case.generator
    kept = case.support(generator, case.tokens, case.up)
    crow, col = case.given(pointers(kept)), case.given(kept.nonzero()[:, 1])
    value, decoder = case.draw(generator, len(col)), case.draw(generator, case.up, case.width)
    grad = case.draw(generator, case.tokens, case.width)
    check(
        case,
        lambda: cuda.decode_backward(crow, col, value, decoder, grad),
        (grad.double().cpu() @ decoder.double().cpu().T)[kept],
        dense(kept, value).T @ grad.double().cpu(),
    )


@on_random_input
@given(case=CASES)
@example(case=FULL)
@example(case=NOTHING)
def test_spread_and_its_gradients(case: Case) -> None:
    """Of a run of tokens: the pointers are part of longer ones, and the entries of the tokens around are there too."""
    generator = case.generator
    edges = case.edges(generator)
    kept = [case.support(generator, case.tokens + 2 * case.outside, size) for size in case.sizes]
    crows, cols = [pointers(site) for site in kept], [site.nonzero()[:, 1] for site in kept]
    entries = torch.tensor([0, *(len(col) for col in cols)]).cumsum(0)
    features = torch.tensor([0, *case.sizes]).cumsum(0)
    crow = torch.stack([crow + first for crow, first in zip(crows, entries[:-1], strict=True)])
    inside = slice(case.outside, case.outside + case.tokens)
    crow = case.given(crow)[:, inside.start : inside.stop + 1]
    col = case.given(torch.cat([col + first for col, first in zip(cols, features[:-1], strict=True)]))
    value, weight = case.draw(generator, len(col)), case.draw(generator, len(edges), case.heads)
    grad = case.draw(generator, case.tokens, case.heads, case.down)

    values = value.split([len(col) for col in cols])
    activations = torch.cat([dense(site, part) for site, part in zip(kept, values, strict=True)], dim=1)[inside]
    matrix = weights(case, edges, weight)
    check(
        case,
        lambda: (cuda.spread(crow, col, value, edges, weight),),
        torch.einsum("nj,ijh->nhi", activations, matrix),
    )
    grad_activations = torch.zeros(len(kept[0]), case.up, dtype=torch.float64)
    grad_activations[inside] = torch.einsum("nhi,ijh->nj", grad.double().cpu(), matrix)
    parts = grad_activations.split(case.sizes, dim=1)
    grad_matrix = torch.einsum("nhi,nj->ijh", grad.double().cpu(), activations)
    check(
        case,
        lambda: cuda.spread_backward(crow, col, value, edges, weight, grad),
        torch.cat([part[site] for part, site in zip(parts, kept, strict=True)]),
        grad_matrix[edges.down.cpu(), edges.up.cpu()],
    )


def test_a_gradient_that_is_one_number_expanded() -> None:
    """As `sum` makes it."""
    edges = FULL.edges(FULL.generator)
    crow, col = torch.tensor([[0, 2, 2, 5]]).to(DEVICE), torch.tensor([0, 3, 1, 3, 7]).to(DEVICE)
    value, weight = torch.arange(5.0).to(DEVICE), torch.ones(len(edges), 3).to(DEVICE)
    grad = torch.ones((), device=DEVICE).expand(3, 3, 7)
    grad_value, grad_weight = cuda.spread_backward(crow, col, value, edges, weight, grad)
    assert grad_value.tolist() == [18.0] * 5  # 3 heads of 6 downstream features: the first has no inputs
    fired = torch.zeros(8).index_add(0, col.cpu(), value.cpu())
    assert torch.equal(grad_weight.cpu(), fired[edges.up.cpu(), None].expand(-1, 3))


def test_rows_longer_than_a_piece_at_the_sizes_that_are_used() -> None:
    """Long rows first, in the middle and last, of exactly one and two pieces, between empty and short ones."""
    counts = torch.tensor([2 * cuda.PIECE, 0, 1, cuda.PIECE + 1, cuda.PIECE, 0, 3 * cuda.PIECE + 7])
    crow = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    generator = torch.Generator().manual_seed(0)
    col = torch.randint(9, (int(crow[-1]),), generator=generator)
    value = torch.randn(len(col), 2, generator=generator, dtype=torch.float64)
    table = torch.randn(9, 2, 131, generator=generator, dtype=torch.float64)
    found = cuda.spmm(crow.to(DEVICE), col.to(DEVICE), value.to(DEVICE), table.to(DEVICE)).cpu()
    rows = (value[..., None] * table[col]).split(counts.tolist())
    torch.testing.assert_close(found, torch.stack([row.sum(0) for row in rows]), rtol=1e-11, atol=1e-11)


def best(pre: Tensor, k: int, live: Tensor) -> tuple[list[int], list[int], list[float]]:
    """What `largest` must give, row by row."""
    crow, col, value = [0], [], []
    for row, alive in zip(pre.tolist(), live.tolist(), strict=True):
        positive = [f for f, entry in enumerate(row) if entry > 0 and alive]
        chosen = sorted(sorted(positive, key=lambda f: (-row[f], f))[:k])
        crow.append(crow[-1] + len(chosen))
        col += chosen
        value += [row[f] for f in chosen]
    return crow, col, value


def check_largest(pre: Tensor, k: int, live: Tensor | None = None) -> None:
    live = torch.ones(len(pre), dtype=torch.bool) if live is None else live
    crow, col, value = cuda.largest(pre.to(DEVICE), k, live.to(DEVICE))
    assert (crow.dtype, col.dtype, value.dtype) == (torch.int64, torch.int64, pre.dtype)
    assert (crow.tolist(), col.tolist(), value.tolist()) == best(pre, k, live)


@on_random_input
@given(case=CASES, features=st.integers(1, 21), share=st.floats(0, 1), shift=st.sampled_from([-3.0, 0.0, 3.0]))
@example(case=FULL, features=21, share=1.0, shift=0.0)
def test_largest(case: Case, features: int, share: float, shift: float) -> None:
    """k from 0 to all; with equal entries where the case is silent."""
    generator = case.generator
    pre = case.draw(generator, case.tokens, features) + shift
    if case.silent:
        pre = pre.round()
    live = torch.rand(case.tokens, generator=generator) < 0.7
    with case.tiles():
        check_largest(case.given(pre), round(share * features), case.given(live))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_largest_at_the_ends_of_the_range(dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    smallest = info.tiny * info.eps  # subnormal
    row = [0.0, -0.0, smallest, -smallest, 2 * smallest, info.max, -info.max, torch.inf, -torch.inf, 1.0, info.tiny]
    pre = torch.tensor([row, row[::-1]], dtype=dtype)
    for k in (1, 4, 5, len(row)):
        check_largest(pre, k)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8, 9])
def test_equal_entries_at_the_cut_are_taken_from_the_lowest_column(k: int) -> None:
    """Also where they lie in different chunks."""
    pre = torch.tensor([[1.0, 2, 1, 1, 2, 1, 1, 1, 2], [1.0] * 9, [-1.0, 1, 0, 1, -1, 1, -1, 1, 3]])
    with FULL.tiles():
        check_largest(pre, k)
    check_largest(pre, k)


@pytest.mark.parametrize(("features", "k"), [(20_011, 7), (20_011, 5_000), (4_096, 4_096)])
def test_largest_of_many_features(features: int, k: int) -> None:
    """Rows of several chunks at the sizes that are used, and so many entries that the chunks must grow."""
    check_largest(torch.randn(2, features, generator=torch.Generator().manual_seed(0)), k)


def test_no_rows() -> None:
    crow, none = torch.zeros(1, dtype=torch.int64, device=DEVICE), torch.zeros(0, dtype=torch.int64, device=DEVICE)
    pre, table = torch.zeros(0, 5, device=DEVICE), torch.zeros(4, 2, 3, device=DEVICE)
    assert [len(out) for out in cuda.largest(pre, 2, torch.zeros(0, dtype=torch.bool, device=DEVICE))] == [1, 0, 0]
    assert cuda.spmm(crow, none, torch.zeros(0, 2, device=DEVICE), table).shape == (0, 2, 3)
    assert cuda.sddmm(crow, none, table[:0], table).shape == (0, 2)


AHEAD_OF_TIME = """
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

class Driver:  # what the compiler asks of a device
    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device: 0)

triton.runtime.driver.set_active(Driver())
run, compiled = JITFunction.run, set()

def compile_only(self, *args, grid, warmup, **kwargs):
    kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
    assert kernel.asm["cubin"]
    compiled.add((self.__name__, dtype))

JITFunction.run = compile_only

from scae.kernels import cuda
from scae.kernels.edges import Edges

edges = Edges.from_csr(torch.tensor([0, 2, 2, 5]), torch.tensor([0, 3, 1, 2, 3]), 4)
crow, col = torch.tensor([0, 1000, 1000, 2000]), torch.arange(2000) % 4
for dtype, heads in (torch.float32, 1), (torch.float32, 12), (torch.bfloat16, 12), (torch.float64, 1):
    entries, table = torch.ones(2000, heads, dtype=dtype), torch.ones(4, heads, 64, dtype=dtype)
    cuda.largest(torch.ones(2, 20000, dtype=dtype), 64, torch.ones(2, dtype=torch.bool))
    cuda.spmm(crow, col, entries, table)
    cuda.sddmm(crow, col, table[:3], table)
    inputs = crow[None], col, entries[:, 0], edges, torch.ones(5, heads, dtype=dtype)
    cuda.spread(*inputs)
    cuda.spread_backward(*inputs, torch.ones(3, heads, 3, dtype=dtype))

kernels = {name for name, kernel in vars(cuda).items() if isinstance(kernel, JITFunction)}
expected = {(kernel, dtype) for kernel in kernels for dtype in (torch.float32, torch.bfloat16, torch.float64)}
assert kernels and compiled == expected, sorted(map(str, compiled ^ expected))
"""


def test_every_kernel_compiles_for_hopper(tmp_path: pytest.TempPathFactory) -> None:
    """Down to machine code, which needs no GPU; the interpreter accepts what the compiler does not."""
    compiler = pytest.importorskip("triton.backends.nvidia.compiler", reason="triton without its CUDA backend")
    try:
        compiler.get_ptxas(90)
    except RuntimeError as error:
        pytest.skip(f"no assembler for sm_90: {error}")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", AHEAD_OF_TIME], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
