"""How each token of a vocabulary reads inside text."""

import json
import re

from transformers import PreTrainedTokenizerBase

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # a byte of SentencePiece
_SPACE = "▁"


def token_texts(tokenizer: PreTrainedTokenizerBase, size: int) -> list[str]:
    """The text of the tokens 0 to `size` - 1: a leading space is kept, bytes that are no text read `\\xNN`, a special
    token and one that the tokenizer does not know read as they are called."""
    special, bytewise = set(tokenizer.all_special_ids), _is_bytewise(tokenizer)
    texts = []
    for number in range(size):
        piece = tokenizer.convert_ids_to_tokens(number) if number < len(tokenizer) else None
        if not isinstance(piece, str):
            texts.append(f"<{number}>")
        elif number in special:
            texts.append(piece)
        elif bytewise:
            texts.append(_of_bytes(bytes(_BYTES[sign] for sign in piece)) if set(piece) <= _BYTES.keys() else piece)
        elif byte := _BYTE.fullmatch(piece):
            texts.append(_of_bytes(bytes([int(byte[1], 16)])))
        else:
            texts.append(piece.replace(_SPACE, " "))
    return texts


def _of_bytes(found: bytes) -> str:
    return found.decode("utf-8", errors="backslashreplace")


def _is_bytewise(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the signs of its tokens stand for bytes (GPT-2)."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return hasattr(tokenizer, "byte_decoder")
    return '"ByteLevel"' in json.dumps(json.loads(backend.to_str()).get("decoder"))


def _signs() -> dict[str, int]:
    """The byte of each sign of GPT-2's alphabet: those that print stand for themselves, the others follow from 256."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _signs()
