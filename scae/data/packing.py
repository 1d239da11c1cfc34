"""Documents to windows.

packed     d1 SEP d2 SEP d3 ... cut every `context` tokens (`context` - 1 where each window starts with a BOS)
document   the first `context` tokens of each document, padded at the end

SEP is the tokenizer's BOS, its EOS or nothing, and begins the document after it: so every document can have a first
token that is no text, which is where attention rests in many models.
"""

import logging
import time
from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int32
from transformers import PreTrainedTokenizerBase

from scae.config import ConfigError, Separator
from scae.data.unknown import UnknownTokens
from scae.data.windows import TokenWindows

log = logging.getLogger(__name__)

# Documents are tokenised together up to this many characters or documents: the fast tokenizer uses all cores on a
# batch, and its result is a Python list of integers, 30 to 40 bytes a token.
_BATCH_CHARACTERS = 1_000_000
_BATCH_DOCUMENTS = 1_000
_CHARACTERS_A_TOKEN = 4  # about; so that a small max_tokens does not wait for, and tokenise, a whole batch
_SECONDS_BETWEEN_LINES = 10.0


class WindowBuilder:
    """Takes documents one at a time and hands back windows at the end.

    context: tokens a window, the prepended BOS included. max_tokens: the windows together have at most this many
    tokens (BOS included, padding not), but at least one window; None: no bound. attend_across: False keeps where
    documents begin.

    Raises ConfigError where `prepend_bos` or `separator` asks for a token that the tokenizer does not have.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        context: int,
        packing: Literal["packed", "document"],
        prepend_bos: Literal["auto"] | bool,
        separator: Separator,
        attend_across: bool,
        max_tokens: int | None,
    ) -> None:
        self.tokenizer = tokenizer
        self.context = context
        self.packing = packing
        self.max_tokens = max_tokens
        self.bos = _resolve_bos(tokenizer, prepend_bos)
        self.separator = _resolve_separator(tokenizer, separator) if packing == "packed" else None
        self.keeps_starts = packing == "packed" and not attend_across
        self.unknown = UnknownTokens(tokenizer)
        self.documents = 0  # documents taken
        self.text_tokens = 0  # tokens found in them
        self.full = False  # max_tokens is reached: further documents change nothing
        self._waiting: list[str] = []
        self._characters = 0
        self._batch = (
            _BATCH_CHARACTERS if max_tokens is None else min(_BATCH_CHARACTERS, _CHARACTERS_A_TOKEN * max_tokens)
        )
        self._rows: list[Int32[np.ndarray, "window text"]] = []
        self._lengths: list[Int32[np.ndarray, " window"]] = []
        self._kept = 0  # tokens in the rows, BOS included
        self._rest = np.zeros(0, dtype=np.int32)  # packed: what does not fill a window yet
        self._starts: list[Bool[np.ndarray, "window text"]] = []
        self._rest_starts = np.zeros(0, dtype=np.bool_)
        self._line_at = time.monotonic()

    def add(self, text: str) -> None:
        """Take one document; it is tokenised with others, later."""
        if self.full:
            return
        self.documents += 1
        self._waiting.append(text)
        self._characters += len(text)
        if self._characters >= self._batch or len(self._waiting) >= _BATCH_DOCUMENTS:
            self._tokenise()

    def finish(self) -> TokenWindows:
        """The windows of all documents; raises ConfigError where there is none."""
        self._tokenise()
        if not self._rows:
            what = "no document has 2" if self.packing == "document" else "too few for one window"
            raise ConfigError(
                f"data.context={self.context}: the {self.documents} documents have {self.text_tokens} tokens, {what}; "
                "give more text or lower data.context"
            )
        tokens = np.concatenate(self._rows)
        if self.bos:
            tokens = np.insert(tokens, 0, self.tokenizer.bos_token_id, axis=1)
        return TokenWindows(
            tokens=torch.from_numpy(tokens),
            lengths=torch.from_numpy(np.concatenate(self._lengths)),
            bos=self.bos,
            separator=self.separator,
            starts=torch.from_numpy(self._all_starts()) if self.keeps_starts else None,
        )

    def _all_starts(self) -> Bool[np.ndarray, "window pos"]:
        starts = np.concatenate(self._starts)
        return np.insert(starts, 0, False, axis=1) if self.bos else starts

    def _tokenise(self) -> None:
        texts, self._waiting, self._characters = self._waiting, [], 0
        if not texts or self.full:
            return
        encoded = self.tokenizer(
            texts,
            add_special_tokens=False,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # no word about documents longer than the model's context: they are cut here
        )["input_ids"]
        self.unknown.add(texts, encoded)
        documents = [np.asarray(ids, dtype=np.int32) for ids in encoded if len(ids)]
        self.text_tokens += sum(map(len, documents))
        if self.packing == "packed":
            self._pack(documents)
        else:
            self._pad(documents)
        if time.monotonic() - self._line_at > _SECONDS_BETWEEN_LINES:
            self._line_at = time.monotonic()
            log.info("tokenised %s documents, %s tokens", f"{self.documents:,}", f"{self.text_tokens:,}")

    def _pack(self, documents: list[Int32[np.ndarray, " _"]]) -> None:
        between = np.array([] if self.separator is None else [self.separator], dtype=np.int32)
        pieces = [np.concatenate([between, document]) for document in documents]
        if pieces and not (self._rows or len(self._rest)):
            pieces[0] = documents[0]
        stream = np.concatenate([self._rest, *pieces])
        starts = np.zeros(len(stream), dtype=np.bool_)
        starts[: len(self._rest)] = self._rest_starts
        starts[len(stream) - np.cumsum([len(piece) for piece in reversed(pieces)], dtype=np.int64)] = True
        width = self.context - int(self.bos)
        count = len(stream) // width
        self._rest, self._rest_starts = stream[count * width :], starts[count * width :]
        if self.max_tokens is not None:
            room = max(1, self.max_tokens // self.context) - self._kept // self.context
            self.full = count >= room
            count = min(count, room)
        self._keep(stream[: count * width].reshape(count, width), np.full(count, self.context, dtype=np.int32))
        if self.keeps_starts:
            self._starts.append(starts[: count * width].reshape(count, width))

    def _pad(self, documents: list[Int32[np.ndarray, " _"]]) -> None:
        width = self.context - int(self.bos)
        pad = next((i for i in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id) if i is not None), 0)
        documents = [document[:width] for document in documents if len(document) >= 2]
        lengths = np.array([len(document) + int(self.bos) for document in documents], dtype=np.int32)
        if self.max_tokens is not None:
            fits = self._kept + np.cumsum(lengths, dtype=np.int64) <= self.max_tokens
            fits[:1] |= self._kept == 0
            self.full = not fits.all()
            lengths = lengths[fits]
        rows = np.full((len(lengths), width), pad, dtype=np.int32)
        for row, document in zip(rows, documents, strict=False):  # the documents beyond the bound come last
            row[: len(document)] = document
        self._keep(rows, lengths)

    def _keep(self, rows: Int32[np.ndarray, "window text"], lengths: Int32[np.ndarray, " window"]) -> None:
        if len(rows):
            self._rows.append(rows)
            self._lengths.append(lengths)
            self._kept += int(lengths.sum())


def build_windows(
    texts: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    context: int,
    packing: Literal["packed", "document"],
    prepend_bos: Literal["auto"] | bool,
    separator: Separator,
    attend_across: bool,
    max_tokens: int | None,
) -> TokenWindows:
    """Tokenise documents and cut them in windows of `context` tokens, the prepended BOS included.

    packed: documents joined by the separator and cut; the incomplete last window is dropped and no other token is
    lost. document: one window a document, its first tokens, padded; documents of fewer than 2
    tokens are dropped. prepend_bos auto: if the tokenizer has a BOS. max_tokens: a bound on the tokens of all windows
    (BOS included, padding not) of which at least one stays; None: all.

    Raises ConfigError where no window comes out, or `prepend_bos` or `separator` asks for a token that is not there.
    """
    builder = WindowBuilder(
        tokenizer,
        context=context,
        packing=packing,
        prepend_bos=prepend_bos,
        separator=separator,
        attend_across=attend_across,
        max_tokens=max_tokens,
    )
    for text in texts:
        builder.add(text)
        if builder.full:
            break
    return builder.finish()


def _resolve_bos(tokenizer: PreTrainedTokenizerBase, prepend_bos: Literal["auto"] | bool) -> bool:
    has_bos = tokenizer.bos_token_id is not None
    if prepend_bos is True and not has_bos:
        raise ConfigError("data.prepend_bos=true: the tokenizer has no BOS token; allowed: auto, false")
    return has_bos if prepend_bos == "auto" else prepend_bos


def separators(tokenizer: PreTrainedTokenizerBase) -> dict[Separator, int | None]:
    """What this tokenizer can put between documents; BOS and EOS once where they are one token."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    found: dict[Separator, int | None] = {"none": None}
    if bos is not None:
        found["bos"] = bos
    if eos is not None and eos != bos:
        found["eos"] = eos
    return found


def _resolve_separator(tokenizer: PreTrainedTokenizerBase, separator: Separator) -> int | None:
    token = {"none": None, "bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}[separator]
    if token is None and separator != "none":
        allowed = ", ".join(["auto", *separators(tokenizer)])
        raise ConfigError(
            f"data.separator={separator}: the tokenizer has no {separator.upper()} token; allowed: {allowed}"
        )
    return token
