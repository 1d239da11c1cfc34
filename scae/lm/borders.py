"""Attention that stays inside a document of a packed window.

    A(q, k) = 0    where k > q, or k belongs to another document than q

Documents are told apart by a number at each position. Number 0 is the BOS prepended to the window, and every document
may read it: it sees no text, so nothing crosses a border through it, and many models rest their attention on the first
position; a document without one behaves like no text that the model was trained on. Positions are counted through the
window as before: a document stands where it stands.
"""

from collections.abc import Callable
from typing import Any

import torch

from scae.core.typing import Bool, Int, Tensor


def visible(documents: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch query key"]:
    """Which keys each query may read."""
    query, key = documents[:, :, None], documents[:, None]
    return ((query == key) | (key == 0)).tril()


def hide_others(documents: Int[Tensor, "batch pos"]) -> Callable[..., Tensor]:
    """A hook for attention scores, on top of whatever the model itself hides (a sliding window, say)."""
    hidden = ~visible(documents)[:, None]

    def hook_fn(scores: Tensor, hook: Any) -> Tensor:
        return scores.masked_fill(hidden, -torch.inf)

    return hook_fn
