"""The corpus tokenised once: split by document, in `tokens-<hash>/` with a note of what it was made from.

The hash covers the data section, the documents and the tokenizer, so a changed one of them makes another folder.
"""

import hashlib
import json
import logging
import platform
import shutil
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from scae.artifacts import is_first_process, locked
from scae.config import ConfigError
from scae.data import corpus
from scae.data.packing import WindowBuilder
from scae.data.tokenizer import fingerprint
from scae.data.unknown import warn_of_unknown
from scae.data.windows import TokenWindows

log = logging.getLogger(__name__)


def train_and_heldout(
    data: corpus.Data, tokenizer: PreTrainedTokenizerBase, cache: Path
) -> tuple[TokenWindows, TokenWindows]:
    """The windows to train on and those that only evaluation sees, from `cache` where they are there already.

    No document is on both sides. `data.max_tokens` is shared: training has 1 - `data.heldout` of it. One process
    tokenises, others that ask for the same wait for it.

    Raises ConfigError where a side has no document or no window.
    """
    made_from = {
        "data": data.model_dump(mode="json"),
        "corpus": corpus.fingerprint(data),
        "tokenizer": fingerprint(tokenizer),
        "format": 2,
    }
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache / f"tokens-{key}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with locked(cache / f"tokens-{key}.lock", folder.name):
            if not folder.exists():
                _make(data, tokenizer, folder, made_from)
    if is_first_process():
        warn_of_unknown(json.loads((folder / "artifact.json").read_text())["unknown"])
    return TokenWindows.load(folder / "train.safetensors"), TokenWindows.load(folder / "heldout.safetensors")


def _make(data: corpus.Data, tokenizer: PreTrainedTokenizerBase, folder: Path, made_from: dict[str, Any]) -> None:
    log.info("tokenising data.kind=%s for %s", data.kind, folder)
    bounds: tuple[int | None, int | None] = (None, None)
    if data.max_tokens is not None:
        training = round(data.max_tokens * (1 - data.heldout))
        bounds = (training, data.max_tokens - training)
    train, heldout = (
        WindowBuilder(
            tokenizer,
            context=data.context,
            packing=data.packing,
            prepend_bos=data.prepend_bos,
            separator=data.settled_separator,
            attend_across=data.attend_across,
            max_tokens=bound,
        )
        for bound in bounds
    )
    for index, text in enumerate(corpus.documents(data)):
        (heldout if corpus.is_heldout(index, data.heldout) else train).add(text)
        if train.full and heldout.full:
            break
    for builder, side in ((train, "training"), (heldout, "evaluation")):
        if not builder.documents:
            raise ConfigError(
                f"data.heldout={data.heldout}: of {train.documents + heldout.documents} documents none is left for "
                f"{side}; give more documents or change data.heldout (a .txt file up to 50,000 bytes is one document)"
            )
    temporary = folder.with_name(f".{folder.name}.tmp")  # one name is enough under the lock
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    sides: dict[str, dict[str, int]] = {}
    for builder, name in ((train, "train"), (heldout, "heldout")):
        windows = builder.finish()
        windows.save(temporary / f"{name}.safetensors")
        sides[name] = {"documents": builder.documents, "windows": len(windows), "tokens": windows.n_tokens}
        log.info("%s: %s", name, ", ".join(f"{count:,} {what}" for what, count in sides[name].items()))
    note = {"made_from": made_from, **sides, "unknown": train.unknown.facts(), "python": platform.python_version()}
    (temporary / "artifact.json").write_text(json.dumps(note, indent=2) + "\n")
    temporary.replace(folder)
