"""What is read from an answer, and what becomes of it."""

import random

import pytest

from scae.label.failures import one_line
from scae.label.prompts import DETECT, FUZZ, ask, describe, is_refusal, label_in, verdicts_in
from scae.label.questions import Feature, Question
from scae.label.scoring import Answer, balanced_accuracy, label, requests
from scae.label.snippets import Snippet


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("LABEL: cats", "cats"),
        ("The marks are cats.\n\n**LABEL:** words for cats \n", "words for cats"),
        ('label: "cats"', "cats"),
        ("[LABEL]: cats", "cats"),
        ("LABEL: first\nno, rather\nLABEL: second", "second"),
        ("<think>LABEL: dogs\n</think>\nLABEL: cats", "cats"),
        ("LABEL: a\x1b[0mb", "a [0mb"),
        ("<think>LABEL: dogs", None),
        ("cats", None),
        ("LABEL:", None),
        ("LABEL: ** ", None),
        ("My LABEL: cats", None),
        ("", None),
    ],
)
def test_a_label_is_the_last_one_or_none(answer: str, expected: str | None) -> None:
    assert label_in(answer) == expected


def test_a_label_is_one_line_and_not_too_long() -> None:
    found = label_in("LABEL: " + "very " * 1000)
    assert found is not None
    assert len(found) <= 300
    assert found.endswith("…")
    assert one_line("a\r\n\tb\u2028c\x00d", 10) == "a b c d"


@pytest.mark.parametrize(
    ("answer", "count", "expected"),
    [
        ("[1, 0, 1]", 3, [True, False, True]),
        ("such as [0,0], so:\n[1,0]", 2, [True, False]),
        ("<think>[1, 1]</think>[0, 0]", 2, [False, False]),
        ("[1, 0,]", 2, [True, False]),
        ("[1, 0, 1]", 2, None),
        ("[1, 2]", 2, None),
        ("[]", 0, []),
        ("1, 0", 2, None),
        ("", 1, None),
    ],
)
def test_verdicts_are_the_last_list_if_it_has_the_right_length(
    answer: str, count: int, expected: list[bool] | None
) -> None:
    assert verdicts_in(answer, count) == expected


def test_a_refusal_is_told_from_what_cannot_be_read() -> None:
    for answer in (
        "I'm sorry, but no",
        "I\u2019m very sorry",
        "Sorry, I will not",
        "I cannot do that",
        "I can't",
        "I can\u2019t",
    ):
        assert is_refusal(answer), answer
    for answer in ("cats", "The text says: I'm sorry", "I can see cats", ""):
        assert not is_refusal(answer), answer


def test_balanced_accuracy_is_what_its_equation_says() -> None:
    assert balanced_accuracy([True, True, False, False], [True, True, False, False]) == 1.0
    assert balanced_accuracy([True, True, False, False], [False, False, True, True]) == 0.0
    assert balanced_accuracy([True, True, True, False], [True, True, True, True]) == 0.5  # not .75
    assert balanced_accuracy([True, True, True, False], [True, False, False, False]) == pytest.approx((1 / 3 + 1) / 2)
    assert balanced_accuracy([True, True], [True, True]) is None
    assert balanced_accuracy([], []) is None


def feature(questions: int) -> Feature:
    asked = tuple(Question(text=f"text {i}", truth=i % 2 == 0) for i in range(questions))
    shown = (Snippet(texts=("a {label} ", "cat"), values=(0.0, 2.0)),)
    return Feature(
        site="0.mlp",
        index=3,
        run_pass="plain",
        largest=4.0,
        shown=shown,
        detection=asked,
        fuzzing=asked[: questions // 2],
    )


def test_a_coin_scores_about_a_half() -> None:
    coin = random.Random(0)
    outcome = label(feature(2000), lambda prompt: Answer(text=flips(prompt, coin)))
    assert outcome.detection == pytest.approx(0.5, abs=0.05)
    assert outcome.fuzzing == pytest.approx(0.5, abs=0.05)
    assert 0.5 not in (outcome.detection, outcome.fuzzing)
    assert outcome.unread == 0


def flips(prompt: str, coin: random.Random) -> str:
    if "one short phrase" in prompt:
        return "LABEL: heads"
    return str([coin.randint(0, 1) for _ in range(prompt.count("\nSnippet "))])


def test_answers_that_cannot_be_read_are_left_out_of_the_score_and_counted() -> None:
    def half(prompt: str) -> Answer:
        if "one short phrase" in prompt:
            return Answer(text="LABEL: even numbers")
        numbers = [int(line.split("text ")[1]) for line in prompt.splitlines() if line.startswith("Snippet ")]
        return Answer(text="?" if 0 in numbers else str([int(number % 2 == 0) for number in numbers]))

    outcome = label(feature(32), half)
    assert (outcome.detection, outcome.fuzzing) == (1.0, 1.0)
    assert (outcome.questions, outcome.unread) == (6, 2)
    assert requests(feature(32)) == 7


def test_a_refused_description_is_not_scored() -> None:
    asked: list[str] = []

    def refuses(prompt: str) -> Answer:
        asked.append(prompt)
        return Answer(text="LABEL: cats", refused=True)

    outcome = label(feature(32), refuses)
    assert (outcome.label, outcome.problem, outcome.detection, outcome.questions) == (None, "refusal", None, 0)
    assert len(asked) == 1


def test_prompts_hold_what_they_are_about_and_no_more() -> None:
    shown = describe(feature(4))
    assert 'Snippet 1: a {label} <<cat>>\nStrengths: ("cat", 5)' in shown
    for form in (DETECT, FUZZ):
        prompt = ask(form, "{snippets} in braces", feature(4).detection)
        assert "described so: {snippets} in braces\n" in prompt
        assert "Snippet 1: text 0\nSnippet 2: text 1\nSnippet 3: text 2\nSnippet 4: text 3" in prompt
        assert "list of 4 numbers" in prompt
        assert "True" not in prompt
    assert "strength" not in ask(DETECT, "x", feature(4).detection)
