"""The tokenizer of the embedded model: byte-level BPE, trained here, so that any text has tokens and comes back."""

import hashlib
import logging
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

log = logging.getLogger(__name__)

# In the order of their ids. BOS must not be 0: circuit-tracer drops a BOS candidate with id 0.
_SPECIALS = ("<pad>", "<bos>", "<eos>")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of at most `vocab_size` tokens: `<pad>`=0, `<bos>`=1, `<eos>`=2, 256 bytes, merges.

    The same texts give the same tokenizer. A small corpus may have fewer merges than asked for: size a model by
    `len(tokenizer)`. Encoding adds no special token, and `decode(encode(x)) == x` for every string. Save it with
    `save_pretrained`.

    Raises ValueError where `vocab_size` has no room for the bytes and the special tokens.
    """
    smallest = 256 + len(_SPECIALS)
    if vocab_size < smallest:
        raise ValueError(
            f"vocab_size={vocab_size}: allowed: at least {smallest}, 256 bytes and {len(_SPECIALS)} specials"
        )
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(_SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    pad, bos, eos = _SPECIALS
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=pad, bos_token=bos, eos_token=eos, clean_up_tokenization_spaces=False
    )
    if len(tokenizer) < vocab_size:
        log.info("the corpus has merges for %d tokens, fewer than vocab_size=%d", len(tokenizer), vocab_size)
    return tokenizer


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """16 hex digits of everything that decides how text becomes tokens, the special tokens included."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else str(sorted(tokenizer.get_vocab().items()))
    specials = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return hashlib.sha256(f"{rules}{specials}".encode()).hexdigest()[:16]
