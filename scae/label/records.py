"""`labels.json` of a run directory, and `pages/labels.js`, which its pages load.

    {"format": 1, "model": who was asked last,
     "labels": {"2.mlp/17": {"label", "detection", "fuzzing", "examples", "pass", "model", "questions", "unread"}},
     "unlabelled": {"2.mlp/18": {"problem": "refusal" or "unparseable", "answer", "examples", "pass", "model"}}}

A score is null where nothing could be scored. A label is text of a model about text of anybody: pages escape it, and
the script holds no `<` at all.
"""

import json
import re
from pathlib import Path
from typing import Any

from scae.core.whole_files import write_text
from scae.label.failures import LabelError
from scae.label.scoring import Outcome

FORMAT = 1


class Records:
    """What is known about the features of a run, on disk after every change."""

    def __init__(self, run: Path, *, model: str) -> None:
        self.path = run / "labels.json"
        self.script = run / "pages" / "labels.js"
        self._model = model
        self._content = _read(self.path)

    def has(self, name: str) -> bool:
        """Whether a feature was asked about, labelled or not."""
        return name in self._content["labels"] or name in self._content["unlabelled"]

    def add(self, outcome: Outcome) -> None:
        feature = outcome.feature
        common = {"examples": len(feature.shown), "pass": feature.run_pass, "model": self._model}
        for known in ("labels", "unlabelled"):
            self._content[known].pop(feature.name, None)
        if outcome.label is None:
            entry = {"problem": outcome.problem, "answer": outcome.answer, **common}
            self._content["unlabelled"][feature.name] = entry
        else:
            scores = {"detection": _rounded(outcome.detection), "fuzzing": _rounded(outcome.fuzzing)}
            entry = {"label": outcome.label, **scores, **common}
            self._content["labels"][feature.name] = entry | {"questions": outcome.questions, "unread": outcome.unread}
        self._content["model"] = self._model
        write_text(self.path, self._text(indent=1) + "\n")

    def write_script(self) -> Path:
        self.script.parent.mkdir(exist_ok=True)
        harmless = self._text(indent=None).replace("<", "\\u003c")
        return write_text(self.script, f'scae_data("labels", {harmless});\n')

    def _text(self, *, indent: int | None) -> str:
        for known in ("labels", "unlabelled"):
            self._content[known] = dict(sorted(self._content[known].items(), key=lambda item: _order(item[0])))
        return json.dumps(self._content, indent=indent)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {"format": FORMAT, "model": None, "labels": {}, "unlabelled": {}}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT or not isinstance(content["labels"], dict):
            raise ValueError(f"format {content['format']}, expected {FORMAT}")
    except (ValueError, LookupError, TypeError) as error:
        raise LabelError(
            f"{path} holds no labels that this version can read ({error}); move it away to begin anew"
        ) from error
    return {"format": FORMAT, "model": None, "labels": {}, "unlabelled": {}} | content


def _order(name: str) -> list[tuple[int, str]]:
    """2.mlp/17 before 10.attn/3."""
    return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"(\d+)", name)]


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 4)
