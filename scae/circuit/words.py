"""What a reader of a circuit reads beside numbers: tokens as text, the tokens that a feature promotes, labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from scae.data import token_texts
from scae.lm import UNEMBED
from scae.report.pages.write import LABELS, read_labels
from scae.sites import Site
from scae.suite import Suite

PROMOTED = 5


@dataclass(frozen=True)
class Words:
    """labels: by feature, as "2.mlp/17"."""

    suite: Suite = field(repr=False)
    labels: Mapping[str, str] = field(default_factory=dict, repr=False)

    def token(self, token: int) -> str:
        """As it reads inside text (`scae.data.token_texts`); without a tokenizer, its number."""
        return f"#{token}" if self.suite.lm.tokenizer is None else self._texts[token]

    @cached_property
    def _texts(self) -> list[str]:
        return token_texts(self.suite.lm.tokenizer, self.suite.lm.paths.W_U.shape[1])

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


def labels_of(folder: Path) -> dict[str, str]:
    """What `python -m scae.label` has written beside a run, by feature; nothing where it has not."""
    return {name: str(entry["label"]) for name, entry in read_labels(folder / LABELS).items() if "label" in entry}
