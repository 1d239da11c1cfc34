"""One feature, from its examples to its label and scores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scae.label.failures import one_line
from scae.label.prompts import DETECT, FUZZ, ask, describe, is_refusal, label_in, verdicts_in
from scae.label.questions import Feature, Question

ASKED_AT_ONCE = 8
"""Snippets of one question."""
LONGEST_ANSWER = 200


@dataclass(frozen=True, kw_only=True)
class Answer:
    """refused: the endpoint itself says that the model did not want to."""

    text: str
    refused: bool = False


Asked = Callable[[str], Answer]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a model has made of a feature.

    label: None where it gave none; problem is then "refusal" or "unparseable", and answer the beginning of what it said
    detection, fuzzing: balanced accuracy; None where nothing could be scored
    questions, unread: how many questions were asked about snippets, and how many answers could not be read
    """

    feature: Feature
    label: str | None
    problem: str = ""
    answer: str = ""
    detection: float | None = None
    fuzzing: float | None = None
    questions: int = 0
    unread: int = 0


def requests(feature: Feature) -> int:
    """How many a feature takes where each is answered."""
    return 1 + len(_batches(feature.detection)) + len(_batches(feature.fuzzing))


def label(feature: Feature, asked: Asked) -> Outcome:
    """Ask for a description, then score it. What cannot be read is left out of a score, and counted."""
    answer = asked(describe(feature))
    phrase = None if answer.refused else label_in(answer.text)
    if phrase is None:
        problem = "refusal" if answer.refused or is_refusal(answer.text) else "unparseable"
        return Outcome(feature=feature, label=None, problem=problem, answer=one_line(answer.text, LONGEST_ANSWER))
    detection, unread = _score(DETECT, phrase, feature.detection, asked)
    fuzzing, more = _score(FUZZ, phrase, feature.fuzzing, asked)
    return Outcome(
        feature=feature,
        label=phrase,
        detection=detection,
        fuzzing=fuzzing,
        questions=requests(feature) - 1,
        unread=unread + more,
    )


def balanced_accuracy(truth: Sequence[bool], said: Sequence[bool]) -> float | None:
    """(share of the true that are called true + share of the false that are called false) / 2; .5 is chance. None
    where one of the two does not occur."""
    right = {value: [a == b for a, b in zip(truth, said, strict=True) if a is value] for value in (True, False)}
    if not (right[True] and right[False]):
        return None
    return sum(sum(hits) / len(hits) for hits in right.values()) / 2


def _score(form: str, phrase: str, questions: Sequence[Question], asked: Asked) -> tuple[float | None, int]:
    """The score, and how many answers could not be read."""
    truth: list[bool] = []
    said: list[bool] = []
    unread = 0
    for batch in _batches(questions):
        answer = asked(ask(form, phrase, batch))
        verdicts = None if answer.refused else verdicts_in(answer.text, len(batch))
        if verdicts is None:
            unread += 1
        else:
            truth += [question.truth for question in batch]
            said += verdicts
    return balanced_accuracy(truth, said), unread


def _batches(questions: Sequence[Question]) -> list[Sequence[Question]]:
    return [questions[i : i + ASKED_AT_ONCE] for i in range(0, len(questions), ASKED_AT_ONCE)]
