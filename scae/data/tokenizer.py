"""The tokenizer of the embedded model: byte-level BPE, trained here, so that any text has tokens and comes back."""

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

log = logging.getLogger(__name__)

# In the order of their ids. BOS must not be 0: circuit-tracer drops a BOS candidate with id 0.
_SPECIALS = ("<pad>", "<bos>", "<eos>")

# The trainer needs time that grows with the square of its longest word: 200,000 times one letter took minutes. Learning
# merges from a word of this length is as good; encoding a text needs no such bound.
LONGEST_WORD = 1_000
_TOO_LONG = re.compile(rf"[^\W\d_]{{{LONGEST_WORD + 1},}}|\d{{{LONGEST_WORD + 1},}}|\s{{{LONGEST_WORD + 1},}}"
                       rf"|(?:[^\w\s]|_){{{LONGEST_WORD + 1},}}")  # fmt: skip  # the words of ByteLevel


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of at most `vocab_size` tokens: `<pad>`=0, `<bos>`=1, `<eos>`=2, 256 bytes, merges.

    The same texts give the same tokenizer. Of words of more than LONGEST_WORD characters the beginning is learned from,
    which the log says. A small corpus may have fewer merges than asked for: size a model by
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
    bpe.train_from_iterator(_without_giants(texts), trainer)
    pad, bos, eos = _SPECIALS
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=pad, bos_token=bos, eos_token=eos, clean_up_tokenization_spaces=False
    )
    if len(tokenizer) < vocab_size:
        log.info("the corpus has merges for %d tokens, fewer than vocab_size=%d", len(tokenizer), vocab_size)
    return tokenizer


def _without_giants(texts: Iterable[str]) -> Iterator[str]:
    """The texts, their longest words cut short; says once how many those were."""
    cut = 0
    for text in texts:
        shorter, giants = _TOO_LONG.subn(lambda word: word[0][:LONGEST_WORD], text)
        cut += giants
        yield shorter
    if cut:
        log.info("the tokenizer is trained on the first %s characters of %s longer words", f"{LONGEST_WORD:,}", cut)


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """16 hex digits of everything that decides how text becomes tokens, the special tokens included."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else str(sorted(tokenizer.get_vocab().items()))
    specials = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return hashlib.sha256(f"{rules}{specials}".encode()).hexdigest()[:16]
