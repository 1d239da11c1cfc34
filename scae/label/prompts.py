"""The words of the questions, and what is read from an answer.

Each prompt is one message of a user, as not every chat template knows a system.
"""

import json
import re
from collections.abc import Sequence

from scae.label.failures import one_line
from scae.label.questions import Feature, Question

LONGEST_LABEL = 300
DESCRIBE = """\
A feature of a neural network fires at some tokens of a text. Below are snippets of text in which it fires most \
strongly. The tokens where it fires are between << and >>, and are listed below each snippet with their strength from \
0 to 10. The feature may depend on the marked tokens, on what stands before them, or on what they lead to.

Say in one short phrase what these places have in common: as specific as the snippets allow, no list of alternatives, \
no mention of the marks. Your last line must be the phrase, in this form:
LABEL: comparative adjectives that end in "er"

{examples}"""
DETECT = """\
A feature of a neural network is described so: {label}

Below are {count} snippets of text. In which of them does the feature fire at one token at least? All, some or none \
may be right. Your last line must be a list of {count} numbers in the order of the snippets, 1 where it fires and 0 \
where it does not, such as {form}

{snippets}"""
FUZZ = """\
A feature of a neural network is described so: {label}

Below are {count} snippets of text in which some tokens are between << and >>. In which of them are the marked tokens \
those at which the feature fires? All, some or none may be right. Your last line must be a list of {count} numbers in \
the order of the snippets, 1 where the marks are right and 0 where they are not, such as {form}

{snippets}"""
_LABEL = re.compile(r"^[\s*_#>\[]*LABEL[\s*_\]]*:[\s*_]*(.+?)[\s*_]*$", re.MULTILINE | re.IGNORECASE)
_LIST = re.compile(r"\[\s*[01](?:\s*,\s*[01])*\s*,?\s*\]")
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_REFUSAL = re.compile(
    r"(i\W{0,2}m (very )?sorry|sorry|i can\W?(no)?t|i am (sorry|unable|not able)|i won\Wt)\b", re.IGNORECASE
)


def describe(feature: Feature) -> str:
    parts = []
    for number, snippet in enumerate(feature.shown, start=1):
        line = snippet.marked(snippet.important())
        parts.append(f"Snippet {number}: {line}\nStrengths: {snippet.strengths(feature.largest)}")
    return DESCRIBE.format(examples="\n".join(parts))


def ask(form: str, label: str, questions: Sequence[Question]) -> str:
    """form: DETECT or FUZZ."""
    lines = (f"Snippet {number}: {question.text}" for number, question in enumerate(questions, start=1))
    shape = json.dumps([int(i % 3 == 0) for i in range(len(questions))])
    return form.format(label=label, count=len(questions), form=shape, snippets="\n".join(lines))


def label_in(answer: str) -> str | None:
    """The phrase that an answer ends with; None: it holds none."""
    found = _LABEL.findall(_said(answer))
    return one_line(found[-1].strip("\"'"), LONGEST_LABEL) or None if found else None


def verdicts_in(answer: str, count: int) -> list[bool] | None:
    """The last list of an answer; None: there is none, or not of so many."""
    found = _LIST.findall(_said(answer))
    digits = [digit == "1" for digit in re.findall("[01]", found[-1])] if found else []
    return digits if len(digits) == count else None


def is_refusal(answer: str) -> bool:
    """Whether an answer without what was asked for says that there will be none."""
    return _REFUSAL.match(_said(answer).strip()) is not None


def _said(answer: str) -> str:
    """Without what a reasoning model thinks aloud."""
    return _THOUGHT.sub("", answer)
