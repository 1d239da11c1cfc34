"""What a model is shown of a feature and asked about it."""

import numpy as np
import pytest

from scae.label.questions import Feature, prepare
from scae.label.snippets import AFTER, BEFORE, Firing, Snippet, Text

CONTEXT = 64


def text_of(windows: int, **more: np.ndarray) -> Text:
    """Token i reads `i `; the first of every window is no text."""
    n = windows * CONTEXT
    columns = {
        "ids": np.arange(n),
        "documents": np.zeros(n, np.int32),
        "windows": np.arange(n) // CONTEXT,
        "live": np.arange(n) % CONTEXT != 0,
    }
    return Text(**(columns | more), vocabulary=[f"{i} " for i in range(n)])


def words(snippet: Snippet) -> list[int]:
    return [int(text) for text in snippet.texts]


def test_a_snippet_stays_in_its_window_and_document_and_is_text_alone() -> None:
    documents = np.zeros(2 * CONTEXT, np.int32)
    documents[40:] = 1
    live = np.arange(2 * CONTEXT) % CONTEXT != 0
    live[[55, 90]] = False
    text = text_of(2, documents=documents, live=live)
    assert text.around(30) == (10, 40)
    assert text.around(5) == (1, 5 + AFTER + 1)
    assert text.around(45) == (40, 55)
    assert text.around(60) == (56, 64)
    assert text.around(65) == (65, 65 + AFTER + 1)
    assert text.around(110) == (91, 110 + AFTER + 1)
    assert text.around(127) == (127 - BEFORE, 128)
    assert len(text.positions) == 2 * CONTEXT - 4


def test_marks_join_neighbours_and_leave_out_what_is_weak() -> None:
    snippet = Snippet(texts=(" a", "\n", " b", " c", "<i>"), values=(10.0, 4.0, 2.9, 0.0, 3.1))
    assert snippet.important() == [0, 1, 4]
    assert snippet.marked(snippet.important()) == "<< a\\n>> b c<<<i>>>"
    assert snippet.marked(()) == " a\\n b c<i>"
    assert snippet.strengths(10.0) == '(" a", 10), ("\\n", 4), ("<i>", 3)'
    assert Snippet(texts=("a",), values=(0.0,)).important() == []
    rising = Snippet(texts=tuple("abcdefghijkl"), values=tuple(float(i) for i in range(20, 32)))
    assert rising.strengths(31.0).startswith('("c", 7), ("d", 7)')  # the ten strongest


def firing_at(text: Text, tokens: list[int]) -> Firing:
    found = np.array(sorted(tokens))
    return Firing(text=text, tokens=found, values=1.0 + found / 1000)


def test_a_snippet_holds_the_activations_of_its_tokens() -> None:
    firing = firing_at(text_of(2), [30, 31, 70])
    snippet = firing.snippet(30)
    assert words(snippet) == list(range(10, 42))
    assert [i for i, value in zip(words(snippet), snippet.values, strict=True) if value] == [30, 31]
    assert max(snippet.values) == pytest.approx(1.031)


def test_silent_snippets_are_silent_and_do_not_overlap() -> None:
    fires = [*range(20, 64), *range(100, 128), 200]
    firing = firing_at(text_of(6), fires)
    found = firing.silent(np.random.default_rng(0), 100)
    assert len(found) > 5
    seen = [word for snippet in found for word in words(snippet)]
    assert len(seen) == len(set(seen))
    assert not set(seen) & set(fires)
    assert all(value == 0 for snippet in found for value in snippet.values)
    assert firing_at(text_of(2), list(range(128))).silent(np.random.default_rng(0), 4) == []
    assert len(firing.silent(np.random.default_rng(0), 3)) == 3


def prepared(windows: int, firing_windows: int, *, examples: int = 4, seed: int = 0) -> Feature:
    """One token in each of the first windows fires, later ones more strongly; drawn are all of them, in four bands."""
    tokens = [window * CONTEXT + 30 for window in range(firing_windows)]
    order = np.array(tokens[::-1])
    bands = np.full((4, 4), -1)
    for band, found in enumerate(np.array_split(order, 4)):
        bands[band, : len(found[:4])] = found[:4]
    top = np.full(16, -1)
    top[: len(order[:16])] = order[:16]
    return prepare(
        site="2.mlp",
        index=17,
        run_pass="pruned",
        firing=firing_at(text_of(windows), tokens),
        top=top,
        bands=bands,
        examples=examples,
        seed=seed,
    )


def windows_of(feature: Feature) -> tuple[set[int], set[int], set[int]]:
    """Those that are shown, that are asked about as firing, and as silent."""
    shown = {words(snippet)[0] // CONTEXT for snippet in feature.shown}
    asked = [(int(question.text.split()[0]) // CONTEXT, question.truth) for question in feature.detection]
    return shown, {window for window, truth in asked if truth}, {window for window, truth in asked if not truth}


def test_no_window_is_both_shown_and_asked_about() -> None:
    feature = prepared(windows=40, firing_windows=16)
    assert feature.name == "2.mlp/17"
    assert feature.largest == pytest.approx(1.0 + (15 * CONTEXT + 30) / 1000)
    shown, true, false = windows_of(feature)
    assert shown == {12, 13, 14, 15}  # the largest
    assert len(true) == 4
    assert not shown & true
    assert {window // 4 for window in true} == {0, 1, 2}  # of all bands that are left
    assert len([question for question in feature.detection if not question.truth]) == 4
    assert false


@pytest.mark.parametrize("firing_windows", [2, 3, 4, 5])
def test_a_feature_of_few_windows_keeps_examples_back(firing_windows: int) -> None:
    shown, true, _ = windows_of(prepared(windows=40, firing_windows=firing_windows))
    assert shown
    assert true
    assert not shown & true
    assert shown | true == set(range(firing_windows))


def test_a_feature_of_one_window_is_shown_and_not_asked_about() -> None:
    feature = prepared(windows=40, firing_windows=1)
    assert len(feature.shown) == 1
    assert feature.detection == feature.fuzzing == ()


def test_fuzzing_marks_what_fires_or_as_many_random_tokens() -> None:
    feature = prepared(windows=40, firing_windows=16)
    for question in feature.fuzzing:
        marked = [int(part.split(">>")[0]) for part in question.text.split("<<")[1:]]
        assert len(marked) == 1
        assert (marked[0] % CONTEXT == 30 and marked[0] < 16 * CONTEXT) is question.truth
    texts = [
        {question.text for question in kind if not question.truth} for kind in (feature.detection, feature.fuzzing)
    ]
    assert len(texts[0]) == len(texts[1]) == 4
    assert not {text.split()[0] for text in texts[0]} & {text.strip("<>").split()[0] for text in texts[1]}


def test_the_questions_depend_on_the_seed_and_on_nothing_else() -> None:
    assert prepared(windows=40, firing_windows=16) == prepared(windows=40, firing_windows=16)
    first, other = prepared(windows=40, firing_windows=16), prepared(windows=40, firing_windows=16, seed=1)
    assert first.shown == other.shown
    assert first.detection != other.detection
    truths = [question.truth for question in first.detection]
    assert truths != sorted(truths)
    assert truths != sorted(truths, reverse=True)
