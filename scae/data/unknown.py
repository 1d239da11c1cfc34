"""Text that the tokenizer cannot say: how much of it there is, and which characters it is made of."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

WORTH_A_WARNING = 0.01
_LOOKED_AT = 20  # documents whose unknown tokens are looked up in the text, which means to tokenise them again
_NAMED = 5


class UnknownTokens:
    """Counts them while documents are tokenised."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.tokens = self.unknown = 0
        self._looked_at = 0
        self._pieces: Counter[str] = Counter()

    def add(self, texts: Sequence[str], encoded: Sequence[Sequence[int]]) -> None:
        unknown = self.tokenizer.unk_token_id
        for text, ids in zip(texts, encoded, strict=True):
            found = 0 if unknown is None else ids.count(unknown)
            self.tokens += len(ids)
            self.unknown += found
            if found and self._looked_at < _LOOKED_AT and self.tokenizer.is_fast:
                self._looked_at += 1
                self._look_at(text, unknown)

    def facts(self) -> dict[str, Any]:
        """`share` of the tokens; `pieces`: what they stand for, the most frequent first, as far as it was looked up."""
        return {
            "share": self.unknown / max(1, self.tokens),
            "pieces": [piece for piece, _ in self._pieces.most_common(_NAMED)],
        }

    def _look_at(self, text: str, unknown: int | None) -> None:
        again = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        for token, (start, end) in zip(again["input_ids"], again["offset_mapping"], strict=True):
            if token == unknown:
                self._pieces[text[start:end]] += 1


def warn_of_unknown(facts: dict[str, Any]) -> None:
    """Say so where a model will read much of its text as one and the same token."""
    if facts["share"] <= WORTH_A_WARNING:
        return
    pieces = ", ".join(map(repr, facts["pieces"]))
    log.warning(
        "the tokenizer turns %.1f %% of the training tokens into its unknown token%s",
        100 * facts["share"],
        f", most often {pieces}" if pieces else "",
    )
