"""A tiny text, suites of every sort that look at it, and codes that relations between features are measured on."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CONTEXT, WINDOWS, BATCH = 7, 9, 2


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    import torch

    with torch.no_grad():
        yield


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    from scae.data import train_tokenizer

    return train_tokenizer(["one two three"], 260)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of four windows, which are two batches."""
    monkeypatch.setattr("scae.analysis.text.PART", 2 * BATCH * CONTEXT)


@pytest.fixture
def text() -> Any:
    import torch

    from scae.analysis import Text
    from scae.data import TokenWindows

    tokens = torch.randint(40, (WINDOWS, CONTEXT), generator=torch.Generator().manual_seed(5), dtype=torch.int32)
    lengths = torch.full((WINDOWS,), CONTEXT, dtype=torch.int32)
    lengths[-1] = 4
    windows = TokenWindows(tokens=tokens, lengths=lengths, bos=True, separator=11)
    return Text(windows, torch.arange(WINDOWS), BATCH, "packed")


@pytest.fixture
def looker(text: Any, tokenizer: Any, tmp_path: Path) -> Callable[..., Any]:
    """`looker(lm, suite, folder=None)`: a suite before the tiny text, in the passes that serve it."""
    from scae.analysis import Looking
    from scae.lm import LanguageModel

    def make(lm: Any, suite: Any, folder: Path | None = None, **suites: Any) -> Any:
        own = LanguageModel(lm.bridge, tokenizer, lm.paths, bos=lm.bos)
        own.widths = lm.widths
        folder = folder or tmp_path / "analysis"
        folder.mkdir(exist_ok=True)
        linear = all(site.linear for site in suite.sites)
        modes = ("plain", "pruned", "spliced") if linear else ("plain", "spliced")
        return Looking(own, {mode: suites.get(mode, suite) for mode in modes}, text, folder)

    return make


@pytest.fixture
def suite(lm: Any, make_suite: Callable[..., Any], ragged: Callable[..., Any]) -> Any:
    """Connected, at the thresholds of inference."""
    suite = make_suite(lm)
    suite.connect(ragged(suite.layout))
    return suite.eval()


@pytest.fixture
def copy_of() -> Callable[[Any], Any]:
    """The same suite with a state of its own."""

    def make(suite: Any) -> Any:
        lm = suite.lm
        twin = copy.deepcopy(suite, {id(lm): lm})
        assert twin.lm is lm
        return twin

    return make


@pytest.fixture(scope="session")
def dense_codes() -> Callable[..., Any]:
    """`dense_codes(sizes, n_tokens, seed)`: random activations by site, `[token, feature]`; every fifth token is not
    live, feature 0 of each site never fires, feature 1 fires at every live token."""

    def make(sizes: dict[Any, int], n_tokens: int = 60, seed: int = 0) -> dict[Any, Any]:
        import torch

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
def as_codes() -> Callable[[dict[Any, Any]], dict[Any, Any]]:
    from scae.analysis.sparse import Codes
    from scae.kernels import SparseCode

    return lambda dense: {site: Codes.of(SparseCode.where(value > 0, value)) for site, value in dense.items()}


@pytest.fixture
def two_batches(lm: Any, trace: Any) -> Callable[[], Iterator[Any]]:
    """Two batches of different shapes, BOS and padding in both."""
    import torch

    tokens = torch.randint(40, (2, 5), generator=torch.Generator().manual_seed(8))
    live = torch.ones_like(tokens, dtype=torch.bool)
    live[:, 0], live[0, -1] = False, False
    other = lm.trace(tokens, live)
    return lambda: iter([trace, other])
