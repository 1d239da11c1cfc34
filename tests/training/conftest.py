"""The tiny GPT-2, and windows of text: some of them padded, or none."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="module")
def gpt2(build_tiny: Callable[[str], Any]) -> Any:
    return build_tiny("gpt2").lm


@pytest.fixture(scope="module")
def windows() -> Any:
    import torch

    from scae.data import TokenWindows

    tokens = torch.randint(40, (50, 10), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    lengths = torch.where(torch.arange(50) % 3 == 0, 7, 10).int()
    return TokenWindows(tokens=tokens, lengths=lengths, bos=True)


@pytest.fixture(scope="module")
def full_windows(windows: Any) -> Any:
    """The same without padding."""
    import torch

    from scae.data import TokenWindows

    return TokenWindows(tokens=windows.tokens, lengths=torch.full((50,), 10, dtype=torch.int32), bos=True)
