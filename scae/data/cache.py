"""The corpus tokenised once: split by document, in `tokens-<hash>/` with a note of what it was made from.

The hash covers the data section, the documents and the tokenizer, so a changed one of them makes another folder.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from scae.artifacts import is_first_process, locked, writing
from scae.artifacts.provenance import commit, versions
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
    tokenises, others that ask for the same wait for it. A damaged folder is made again, with a warning.

    Raises ConfigError where a side has no document or no window, ArtifactError where `cache` cannot be written.
    """
    made_from = {
        "data": corpus.windows_of(data),
        "corpus": corpus.fingerprint(data),
        "tokenizer": fingerprint(tokenizer),
        "format": 2,
    }
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache / f"tokens-{key}"
    found = _open(folder)
    if found is None:
        with writing(folder):
            cache.mkdir(parents=True, exist_ok=True)
            with locked(cache / f"tokens-{key}.lock", folder.name):
                found = _open(folder, log.warning)  # another process may have made it in the meantime
                if found is None:
                    _make(data, tokenizer, folder, made_from)
        found = found or _open(folder)
    assert found is not None
    unknown, *sides = found
    if is_first_process():
        warn_of_unknown(unknown)
    train, heldout = (_leaving_out(data, side, tokenizer) for side in sides)
    return train, heldout


def _leaving_out(data: corpus.Data, side: TokenWindows, tokenizer: PreTrainedTokenizerBase) -> TokenWindows:
    """One side without the windows in which nothing counts."""
    if not data.exclude_tokens and not data.skip_first:
        return side
    if data.exclude_tokens and data.exclude_tokens[-1] >= len(tokenizer):
        raise ConfigError(
            f"data.exclude_tokens={data.exclude_tokens}: the tokenizer has {len(tokenizer)} tokens; allowed: 0 to "
            f"{len(tokenizer) - 1}"
        )
    left = side.leaving_out(data.exclude_tokens, data.skip_first)
    if not len(left):
        raise ConfigError(
            f"data.exclude_tokens={data.exclude_tokens}, data.skip_first={data.skip_first}: no position is left; leave "
            "out less"
        )
    return left


def _open(
    folder: Path, tell: Callable[..., None] = log.debug
) -> tuple[dict[str, Any], TokenWindows, TokenWindows] | None:
    """What is known of unknown tokens, and both sides; None where they have to be made, after telling of damage."""
    if not folder.exists():
        return None
    try:
        unknown = json.loads((folder / "artifact.json").read_text())["unknown"]
        return unknown, *(TokenWindows.load(folder / f"{side}.safetensors") for side in ("train", "heldout"))
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        tell("%s is damaged and is made again (%s)", folder, error)
        return None


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
    try:
        sides: dict[str, dict[str, int]] = {}
        for builder, name in ((train, "train"), (heldout, "heldout")):
            windows = builder.finish()
            windows.save(temporary / f"{name}.safetensors")
            sides[name] = {"documents": builder.documents, "windows": len(windows), "tokens": windows.n_tokens}
            log.info("%s: %s", name, ", ".join(f"{count:,} {what}" for what, count in sides[name].items()))
        note: dict[str, Any] = {"made_from": made_from, **sides, "unknown": train.unknown.facts()}
        note |= {"versions": versions(), "commit": commit()}
        (temporary / "artifact.json").write_text(json.dumps(note, indent=2) + "\n")
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
