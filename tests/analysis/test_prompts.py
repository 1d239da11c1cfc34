"""The means over prompts against the scores of each prompt by itself."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from scae.analysis.prompts import beginnings, explained
from scae.attribution import Scores, exact, scores
from scae.lm import LanguageModel, Trace
from scae.selection import shuffled
from scae.suite import Suite

Make = Callable[..., Any]
Traces = Callable[[], Iterator[Trace]]


def test_a_prompt_ends_with_the_last_live_position_of_a_beginning(lm: LanguageModel, two_batches: Traces) -> None:
    found = list(beginnings(lm, two_batches(), prompts=5, length=5))
    assert [one.tokens.shape[1] for one in found] == [5, 5, 5, 4, 5], "the fourth window has padding at its fifth place"
    assert all(bool(one.live[0, -1]) and not bool(one.live[0, 0]) for one in found)
    whole = next(two_batches())
    for module, output in found[1].outputs.items():
        torch.testing.assert_close(output, whole.outputs[module][1:2, :5])
    assert len(list(beginnings(lm, two_batches(), prompts=2, length=5))) == 2
    assert list(beginnings(lm, two_batches(), prompts=2, length=1)) == [], "a BOS alone is no prompt"


def test_the_means_are_those_of_the_prompts(lm: LanguageModel, suite: Suite, two_batches: Traces) -> None:
    told = explained(suite, two_batches(), prompts=4, length=5)
    each: list[Scores] = []
    for one in beginnings(lm, two_batches(), prompts=4, length=5):
        graph = exact(suite, one)
        each.append(scores(graph.nodes, graph.links))
    assert (told["prompts"], told["tokens"]) == (4, 4.75)
    for name in Scores._fields:
        assert told[name] == pytest.approx(sum(getattr(one, name) for one in each) / 4)
        assert 0 < told[name] <= 1
    assert told["strict_completeness"] < told["completeness"]


def test_the_twin_has_other_connections_and_leaves_the_suite_alone(suite: Suite, two_batches: Traces) -> None:
    own = suite.connections
    chosen = explained(suite, two_batches(), prompts=3)
    twin = explained(suite, two_batches(), prompts=3, connections=shuffled(own, seed=1))
    assert suite.connections is own
    assert twin["strict_replacement"] != chosen["strict_replacement"]
    assert explained(suite, two_batches(), prompts=3) == chosen


def test_no_text_has_no_scores(suite: Suite) -> None:
    assert explained(suite, [], prompts=3) == dict.fromkeys(["tokens", *Scores._fields]) | {"prompts": 0}
