"""The search for the code of a target, a few tokens at a time."""

from collections.abc import Callable

import torch

from scae.core.typing import Bool, Float, Int, Tensor
from scae.dictionaries.dictionary import Dictionary
from scae.dictionaries.pursuit.gradient import descend, gradient
from scae.dictionaries.pursuit.matching import matching
from scae.dictionaries.pursuit.projected import projected
from scae.dictionaries.pursuit.supports import Supports
from scae.kernels import SparseCode, Support
from scae.kernels.code import pointers

METHODS: dict[str, Callable[[Tensor, Tensor, Tensor, int], Supports]] = {
    "gradient": gradient,
    "matching": matching,
    "topk_pgd": projected,
}


def pursue(
    dictionary: Dictionary,
    target: Float[Tensor, "token d_out"],
    live: Bool[Tensor, " token"],
    *,
    method: str,
    k: int | Int[Tensor, " token"],
    steps: int,
    chunk_mb: int | None = None,
) -> SparseCode:
    """The code that the dictionary comes close to the target with: what an autoencoder reads, what a transcoder should
    write. Ceilings, which keep the passes from blowing up, bind no code that is searched for.

    k: the largest number of activations, for all tokens or for each; steps: see the method; chunk_mb: bound on the
    correlations of tokens with all features that are held at a time, None: all at once.
    """
    wanted = _wanted(dictionary, target)
    return search(dictionary.decoder.W, wanted, live, method=method, k=k, steps=steps, chunk_mb=chunk_mb)


@torch.no_grad()
def refine(dictionary: Dictionary, code: SparseCode, target: Float[Tensor, "token d_out"], *, steps: int) -> SparseCode:
    """A code of all tokens with activations that come closer to the target, of features that it has: never a worse one,
    since no step of `scae.dictionaries.pursuit.gradient` is."""
    norms, directions = _directions(dictionary.decoder.W)
    code = code.entries(code.value > 0)
    found = Supports.of(code.with_values(code.value * norms[code.col]), _wanted(dictionary, target), directions)
    descend(found, steps)
    found_code = _code(found)
    return found_code.with_values(found_code.value / norms[found_code.col])


@torch.no_grad()
def search(
    rows: Float[Tensor, "feature d_out"],
    target: Float[Tensor, "token d_out"],
    live: Bool[Tensor, " token"],
    *,
    method: str,
    k: int | Int[Tensor, " token"],
    steps: int,
    chunk_mb: int | None = None,
) -> SparseCode:
    """The same with decoder rows of any norm, a target without anything constant, and both in one unit."""
    norms, directions = _directions(rows)
    most = k if isinstance(k, Tensor) else torch.full_like(live, k, dtype=torch.int64)
    wanted, most = target[live], most[live].clamp(max=len(rows))
    step = max(1, len(wanted) if chunk_mb is None else chunk_mb * 2**20 // (rows.element_size() * len(rows)))
    parts = []
    for start in range(0, max(len(wanted), 1), step):
        part = slice(start, start + step)
        parts.append(_code(METHODS[method](wanted[part], directions, most[part], steps)))
    code = SparseCode.joined(parts)
    counts = torch.zeros_like(live, dtype=torch.int64).masked_scatter(live, code.crow.diff())
    return SparseCode(Support(pointers(counts), code.col, len(rows)), code.value / norms[code.col])


def _wanted(dictionary: Dictionary, target: Float[Tensor, "token d_out"]) -> Float[Tensor, "token d_out"]:
    """What is left for the features, in the unit of what the dictionary writes."""
    return (target - dictionary.constant) / dictionary.writes.scale


def _directions(
    rows: Float[Tensor, "feature d_out"],
) -> tuple[Float[Tensor, " feature"], Float[Tensor, "feature d_out"]]:
    """The norms of decoder rows, and the rows with norm 1."""
    norms = rows.norm(dim=1)
    return norms, rows / norms.clamp_min(torch.finfo(rows.dtype).tiny)[:, None]


def _code(found: Supports) -> SparseCode:
    """In the order of the features, as codes are."""
    order = found.at.masked_fill(~found.used, len(found.rows)).argsort(1)
    used, at, value = (held.gather(1, order) for held in (found.used, found.at, found.value))
    return SparseCode.from_rows(used, at, value, len(found.rows))
