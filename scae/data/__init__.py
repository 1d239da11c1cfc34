"""Text to tokens to batches: corpora, tokenizer, windows and the data module.

The names are loaded on first use, so that `scae.data.corpus` can be read without importing torch.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "documents": "corpus",
    "corpus_fingerprint": "corpus",
    "windows_of": "corpus",
    "is_heldout": "corpus",
    "training_documents": "corpus",
    "train_tokenizer": "tokenizer",
    "tokenizer_fingerprint": "tokenizer",
    "token_texts": "vocabulary",
    "Batch": "windows",
    "TokenWindows": "windows",
    "build_windows": "packing",
    "train_and_heldout": "cache",
    "Steps": "steps",
    "WindowModule": "module",
    "heldout_batches": "module",
    "heldout_windows": "module",
    "count_aside": "aside",
    "kept_aside": "aside",
}

__all__ = [
    "Batch",
    "Steps",
    "TokenWindows",
    "WindowModule",
    "build_windows",
    "corpus_fingerprint",
    "count_aside",
    "documents",
    "heldout_batches",
    "heldout_windows",
    "is_heldout",
    "kept_aside",
    "token_texts",
    "tokenizer_fingerprint",
    "train_and_heldout",
    "train_tokenizer",
    "training_documents",
    "windows_of",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(f"{__name__}.{_HOMES[name]}")
    return getattr(home, "fingerprint" if name.endswith("_fingerprint") else name)
