"""Budgets: as many connections as an even one has, spent where an edge spares the most error."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from scae.config import Connectivity
from scae.connections import Connections
from scae.lm import LanguageModel, Trace
from scae.selection import choose, mean_contributions, record
from scae.selection.budgets import Candidates, by_score, even, importance
from scae.sites import Site
from scae.suite import Suite

Make = Callable[..., Suite]
FIRST, SECOND = Site(0, "mlp"), Site(1, "attn")


def connectivity(**changes: Any) -> Connectivity:
    values: dict[str, Any] = {
        "method": "contribution",
        "C": 5,
        "scope": "joint",
        "weighting": "activation",
        "tokens": 100,
        "chunk_mb": 1,
        "budget": "by_score",
        "spread": 3,
        "path": None,
    }
    return Connectivity(**(values | changes))


def candidates(*rows: list[float]) -> Candidates:
    score = torch.tensor(rows)
    return Candidates(score, torch.arange(score.shape[1]).expand_as(score), float(score.sum()))


@pytest.fixture(scope="module")
def suite(lm: LanguageModel, make_suite: Make) -> Suite:
    suite = make_suite(lm).eval()
    suite[suite.sites[0]].encoder.b.data[2] = -1e4  # never fires
    return suite


def chosen(suite: Suite, trace: Trace, **changes: Any) -> Connections:
    return choose(connectivity(**changes), suite, lambda: [trace], seed=0)[0]


def test_the_largest_measures_win_wherever_they_are() -> None:
    """Six of nine: the first of each feature, then the three largest."""
    here = {FIRST: candidates([9.0, 5.0, 1.0], [4.0, 3.0, 2.0]), SECOND: candidates([6.0, 6.0, 6.0])}
    weight = {FIRST: torch.ones(2), SECOND: torch.ones(1)}
    kept = by_score(here, weight, C=2, spread=2)
    assert kept[FIRST].tolist() == [[True, True, False], [True, False, False]]
    assert kept[SECOND].tolist() == [[True, True, True]]
    weight[SECOND] = torch.tensor([0.5])  # as large as the second of the second feature, which stands before them
    kept = by_score(here, weight, C=2, spread=2)
    assert kept[FIRST].tolist() == [[True, True, False], [True, True, False]]
    assert kept[SECOND].tolist() == [[True, True, False]]


def test_no_feature_falls_below_the_floor_and_zeros_are_never_kept() -> None:
    here = {FIRST: candidates([9.0] * 4, [1.0, 1.0, 0.0, 0.0], [0.0] * 4)}
    kept = by_score(here, {FIRST: torch.tensor([1.0, 0.0, 1.0])}, C=2, spread=2)[FIRST]
    assert kept.tolist() == [[True, True, True, False], [True, False, False, False], [False] * 4]


def test_equal_scores_everywhere_are_as_many_as_an_even_budget_has() -> None:
    here = {FIRST: candidates(*[[2.0] * 6] * 5), SECOND: candidates(*[[2.0] * 6] * 4)}
    kept = by_score(here, {FIRST: torch.ones(5), SECOND: torch.ones(4)}, C=3, spread=2)
    assert sum(int(part.sum()) for part in kept.values()) == 3 * 9
    assert sum(int(part.sum()) for part in even(here).values()) == 6 * 9


@pytest.mark.parametrize(("C", "spread"), [(1, 4), (2, 4), (5, 1), (5, 3), (40, 2)])
def test_as_many_connections_as_an_even_budget_has(suite: Suite, trace: Trace, C: int, spread: int) -> None:
    least = -(-C // spread)
    as_even = chosen(suite, trace, C=C, budget="even")
    by_measure = chosen(suite, trace, C=C, spread=spread)
    assert len(by_measure) == len(as_even) > 0
    assert (by_measure == as_even) == (least == C or C == 40)
    for site in suite.sites:
        degree = by_measure[site].crow.diff()
        assert bool((degree >= as_even[site].crow.diff().clamp(max=least)).all())
        assert int(degree.max()) <= C * spread


def test_what_is_kept_beside_the_first_is_above_what_is_not(suite: Suite, trace: Trace) -> None:
    sample = record(suite, lambda: [trace], megabytes=1)
    connections = chosen(suite, trace, C=4, spread=100)
    kept, others = [], []
    for site in suite.sites:
        if suite.layout.n_upstream(site):
            rows = slice(0, suite.layout.size(site))
            score = mean_contributions(suite, site, rows, sample, "activation").abs()
            measure = score * importance(suite, site, sample.records)[:, None]
            mask = torch.zeros_like(measure, dtype=torch.bool)
            mask[connections[site].down, connections[site].up.long()] = True
            others.append(measure[~mask])
            kept.append(measure[mask.scatter(1, score.argmax(1, keepdim=True), False)])
    assert torch.cat(kept).min() >= torch.cat(others).max() * (1 - 1e-12)


def test_importance_is_the_share_of_the_site_that_an_error_of_one_is(suite: Suite, trace: Trace) -> None:
    records = record(suite, lambda: [trace, trace], megabytes=1).records
    for site in suite.sites:
        f, D = records[0].codes[site].dense().detach(), suite[site].decoder.W.detach()
        written = sum(float(f[t, i] ** 2 * D[i] @ D[i]) for t in range(len(f)) for i in range(f.shape[1]))
        for i in range(f.shape[1]):
            expected = float((f[:, i] > 0).sum() * (D[i] @ D[i])) / written
            assert float(importance(suite, site, records)[i]) == pytest.approx(expected**0.5, rel=1e-9)


def test_the_choice_does_not_depend_on_the_chunk(suite: Suite, trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_by_one(suite: Suite, site: Site, megabytes: int, *, tokens: int = 0) -> Any:
        return (slice(i, i + 1) for i in range(suite.layout.size(site)))

    at_once = chosen(suite, trace)
    assert chosen(suite, trace) == at_once
    monkeypatch.setattr(sys.modules["scae.selection.choose"], "chunks", one_by_one)
    assert chosen(suite, trace) == at_once


def test_a_unit_of_a_site_changes_no_choice(lm: LanguageModel, trace: Trace, make_suite: Make) -> None:
    """Activations of one site four times as large, its decoder rows a quarter: the same function."""
    suite = make_suite(lm).eval()
    before = chosen(suite, trace)
    for site in suite.sites:
        dictionary = suite[site]
        for parameter in (dictionary.encoder.W, dictionary.encoder.b):
            parameter.data *= 4
        dictionary.decoder.W.data /= 4
        dictionary.ceiling *= 4
        assert chosen(suite, trace) == before


def test_a_suite_of_one_site_has_nothing_to_spend_on() -> None:
    assert by_score({}, {}, C=4, spread=2) == {}
