"""What a reader of a circuit reads beside numbers: tokens as text, the tokens that a feature promotes, labels."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from scae.lm import UNEMBED
from scae.sites import Site
from scae.suite import Suite

PROMOTED = 5
ANCHOR = "a"


def token_text(tokenizer: Any, token: int) -> str:
    """A token as it reads inside text: with its leading space; bytes that are no text alone as the tokenizer writes
    them. Without a tokenizer, its number."""
    if tokenizer is None:
        return f"#{token}"
    anchor = tokenizer(ANCHOR, add_special_tokens=False)["input_ids"]
    before, both = (tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in (anchor, [*anchor, token]))
    text = both.removeprefix(before) if both.startswith(before) else both
    return text if text and "\ufffd" not in text else str(tokenizer.convert_ids_to_tokens(token))


@dataclass(frozen=True)
class Words:
    """labels: by feature, as "2.mlp/17"."""

    suite: Suite = field(repr=False)
    labels: Mapping[str, str] = field(default_factory=dict, repr=False)

    def token(self, token: int) -> str:
        return token_text(self.suite.lm.tokenizer, token)

    def label(self, site: str, feature: int) -> str:
        return self.labels.get(f"{site}/{feature}", "")

    @torch.no_grad()
    def promoted(self, site: str, features: Sequence[int]) -> dict[int, list[str]]:
        """For each of these features the tokens whose logits its decoder row raises most, over the mean of all."""
        wanted = sorted(set(features))
        paths = self.suite.lm.paths
        rows = self.suite.writes(Site.parse(site), UNEMBED).rows
        found = {}
        for feature in wanted:
            logits = paths.centre(rows[feature]) @ paths.W_U
            found[feature] = [self.token(token) for token in logits.topk(min(PROMOTED, len(logits))).indices.tolist()]
        return found


def read_labels(folder: Path) -> dict[str, str]:
    """What `python -m scae.label` has written beside a run; nothing where it has not."""
    path = folder / "labels.json"
    if not path.is_file():
        return {}
    try:
        return {name: str(entry["label"]) for name, entry in json.loads(path.read_text("utf-8"))["labels"].items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no labels that can be read: {error!r}") from error
