"""Codes over a text that relations between features are measured on."""

from collections.abc import Callable, Iterator

import pytest
import torch

from scae.analysis.sparse import Codes
from scae.kernels import SparseCode
from scae.lm import LanguageModel, Trace
from scae.sites import Site


@pytest.fixture(scope="session")
def dense_codes() -> Callable[..., dict[Site, torch.Tensor]]:
    """`dense_codes(sizes, n_tokens, seed)`: random activations by site, `[token, feature]`; every fifth token is not
    live, feature 0 of each site never fires, feature 1 fires at every live token."""

    def make(sizes: dict[Site, int], n_tokens: int = 60, seed: int = 0) -> dict[Site, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        found = {}
        for site, size in sizes.items():
            value = torch.rand(n_tokens, size, generator=generator, dtype=torch.float64) + 0.1
            fires = torch.rand(n_tokens, size, generator=generator) < torch.rand(size, generator=generator) * 0.6
            fires[:, 0], fires[:, 1] = False, True
            fires[::5] = False
            found[site] = value * fires
        return found

    return make


@pytest.fixture(scope="session")
def as_codes() -> Callable[[dict[Site, torch.Tensor]], dict[Site, Codes]]:
    return lambda dense: {site: Codes.of(SparseCode.where(value > 0, value)) for site, value in dense.items()}


@pytest.fixture
def two_batches(lm: LanguageModel, trace: Trace) -> Callable[[], Iterator[Trace]]:
    """Two batches of different shapes, BOS and padding in both."""
    tokens = torch.randint(40, (2, 5), generator=torch.Generator().manual_seed(8))
    live = torch.ones_like(tokens, dtype=torch.bool)
    live[:, 0], live[0, -1] = False, False
    other = lm.trace(tokens, live)
    return lambda: iter([trace, other])
