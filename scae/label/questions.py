"""What a model is shown of one feature, and what it is asked (Paulo et al. 2024, "Automatically interpreting millions
of features in large language models"; their code is delphi).

- *description*: the snippets of its largest activations, one a window, important tokens marked, with their strengths.
- *detection*: which of these snippets, unmarked, make the feature fire? Half of them do, drawn from all bands of its
  activations; half are random ones in which it is silent.
- *fuzzing*: in which of these snippets are the right tokens marked? The ones that fire, marked as they are; and other
  silent ones, with as many random tokens marked.

No window is both described and asked about. A feature that fires in few windows has every second of its top examples
kept back for the questions.
"""

import zlib
from dataclasses import dataclass

import numpy as np

from scae.label.snippets import Firing, Snippet


@dataclass(frozen=True, kw_only=True)
class Question:
    """text: one line; truth: the right answer."""

    text: str
    truth: bool


@dataclass(frozen=True, kw_only=True)
class Feature:
    """site, index: its address; run_pass: the pass that its activations are of; largest: of them."""

    site: str
    index: int
    run_pass: str
    largest: float
    shown: tuple[Snippet, ...]
    detection: tuple[Question, ...]
    fuzzing: tuple[Question, ...]

    @property
    def name(self) -> str:
        return f"{self.site}/{self.index}"


def prepare(
    *,
    site: str,
    index: int,
    run_pass: str,
    firing: Firing,
    top: np.ndarray,
    bands: np.ndarray,
    examples: int,
    seed: int,
) -> Feature:
    """top [E]: tokens of the largest activations, one a window; bands [Q, M]: tokens drawn from Q bands of the
    activations, the strongest first; -1 is none. examples: at most so many are shown, and asked about on either side.
    The draws depend on `seed` and on the feature, on nothing else.
    """
    rng = np.random.default_rng([seed, zlib.crc32(site.encode()), index])
    shown, asked = _split(firing, top, bands, examples)
    true = [firing.snippet(token) for token in asked]
    silent = firing.silent(rng, 2 * len(true))
    detection = [Question(text=snippet.marked(()), truth=True) for snippet in true]
    detection += [Question(text=snippet.marked(()), truth=False) for snippet in silent[: len(true)]]
    fuzzing = [Question(text=snippet.marked(snippet.important()), truth=True) for snippet in true]
    for right, wrong in zip(true, silent[-len(true) :], strict=False):  # the same ones where there are too few
        count = min(len(right.important()), len(wrong.texts))
        which = rng.choice(len(wrong.texts), count, replace=False).tolist()
        fuzzing.append(Question(text=wrong.marked(which), truth=False))
    return Feature(
        site=site,
        index=index,
        run_pass=run_pass,
        largest=float(firing.values.max(initial=0.0)),
        shown=tuple(firing.snippet(token) for token in shown),
        detection=_shuffled(detection, rng),
        fuzzing=_shuffled(fuzzing, rng),
    )


def _split(firing: Firing, top: np.ndarray, bands: np.ndarray, examples: int) -> tuple[list[int], list[int]]:
    """The tokens whose snippets are shown, and those whose snippets are asked about, in other windows."""
    windows = firing.text.windows
    shown = [token for token in top.tolist() if token >= 0][:examples]
    taken = {int(windows[token]) for token in shown}
    asked: list[int] = []
    for token in bands.T.ravel().tolist():  # one of every band, then the next of every band
        if token >= 0 and int(windows[token]) not in taken:
            taken.add(int(windows[token]))
            asked.append(token)
    if len(asked) < len(shown) // 2:
        shown, kept = shown[0::2], shown[1::2]
        asked += kept
    return shown, asked[:examples]


def _shuffled(questions: list[Question], rng: np.random.Generator) -> tuple[Question, ...]:
    return tuple(questions[i] for i in rng.permutation(len(questions)).tolist())
