"""Observers on one walk: what they are shown, when, and that a new one needs nothing but itself."""

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from scae.evaluation import Arm, Bypass, Metrics, Observer, Subject, evaluate, walk
from scae.lm import LanguageModel, Trace
from scae.sites import Site
from scae.suite import SuiteOutput

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def gpt2(build_tiny: Make) -> LanguageModel:
    return build_tiny("gpt2").lm


@pytest.fixture(scope="module")
def arms(gpt2: LanguageModel, make_suite: Make, ragged: Make, all_sites: Make) -> list[Arm]:
    suite, other = (make_suite(gpt2, sites=all_sites(gpt2)[:3], seed=seed) for seed in (0, 1))
    other.connect(ragged(other.layout))
    return [Arm("plain", suite, "plain"), Arm("pruned", other, "pruned")]


def traces(lm: LanguageModel) -> Iterator[Trace]:
    tokens = torch.randint(40, (4, 6), generator=torch.Generator().manual_seed(3))
    live = torch.ones(4, 6, dtype=torch.bool)
    live[:, 0] = False
    for rows in (slice(0, 3), slice(3, 4)):
        yield lm.trace(tokens[rows], live[rows])


class Diary(Observer):
    """Writes down what it is shown."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def begin(self, subject: Subject) -> None:
        self.seen.append(("begin", [arm.name for arm in subject.arms], subject.sites))

    def output(self, arm: Arm, out: SuiteOutput, trace: Trace) -> None:
        assert out.live is trace.live
        self.seen.append((arm.name, len(trace.tokens)))

    def batch(self, trace: Trace) -> None:
        self.seen.append(("batch", len(trace.tokens)))

    def result(self) -> Metrics:
        return {"diary/entries": float(len(self.seen))}


class Silent(Observer):
    """Leaves out everything that may be left out."""

    def result(self) -> Metrics:
        return {"silent": 1.0}


def test_the_order_of_a_walk(gpt2: LanguageModel, arms: list[Arm]) -> None:
    diary = Diary()
    assert walk(gpt2, arms, traces(gpt2), [diary, Silent()]) == {"diary/entries": 7.0, "silent": 1.0}
    assert diary.seen == [
        ("begin", ["plain", "pruned"], [Site.parse(name) for name in ("0.attn", "0.mlp", "1.attn")]),
        *[("plain", 3), ("pruned", 3), ("batch", 3)],
        *[("plain", 1), ("pruned", 1), ("batch", 1)],
    ]


def test_another_observer_in_the_walk_of_the_evaluation_changes_no_number(gpt2: LanguageModel, arms: list[Arm]) -> None:
    alone = evaluate(gpt2, arms, lambda: traces(gpt2))
    diary = Diary()
    both = evaluate(gpt2, arms, lambda: traces(gpt2), [diary, Bypass("pruned")])
    assert both["diary/entries"] == len(diary.seen) == 7
    assert {key: both[key] for key in alone} == alone
    assert {key for key in both if key.startswith("connectivity/bypass/")}


def test_every_arm_runs_once_a_batch(gpt2: LanguageModel, arms: list[Arm], monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []
    for arm in arms:
        forward = arm.suite.forward
        monkeypatch.setattr(
            arm.suite, "forward", lambda *a, forward=forward, arm=arm, **k: (runs.append(arm.name), forward(*a, **k))[1]
        )
    evaluate(gpt2, arms, lambda: traces(gpt2), [Diary(), Silent()])
    assert runs == ["plain", "pruned"] * 2


def test_two_numbers_of_one_name_are_refused(gpt2: LanguageModel) -> None:
    with pytest.raises(ValueError, match="Silent gives silent, which another observer has given"):
        walk(gpt2, [], traces(gpt2), [Silent(), Silent()])


def test_no_output_outlives_its_batch(gpt2: LanguageModel, arms: list[Arm]) -> None:
    """Whatever the evaluation keeps to the end of a batch is no whole output, or memory would grow with the arms."""
    alive: list[weakref.ref[Any]] = []

    class Watch(Observer):
        def output(self, arm: Arm, out: SuiteOutput, trace: Trace) -> None:
            assert sum(ref() is not None for ref in alive) <= 1, "the one before, until this one takes its name"
            alive.append(weakref.ref(out))

        def result(self) -> Metrics:
            return {}

    more = [Arm(f"{arm.name}{number}", arm.suite, arm.mode) for number in range(3) for arm in arms]
    evaluate(gpt2, more, lambda: traces(gpt2), [Watch()])
    assert len(alive) == 2 * len(more)
