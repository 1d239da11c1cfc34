"""The strongest edges against brute force, the two ends of the curve against the passes, and its areas by hand."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch

from scae.analysis.scalar import areas, connected, numbers, scalar, strengths, strongest
from scae.connections import Connections
from scae.lm import Trace
from scae.selection import Record, Sample, mean_contributions
from scae.selection.budgets import importance
from scae.suite import Suite

Make = Callable[..., Any]
Traces = Callable[[], Iterator[Trace]]


def divergence(suite: Suite, traces: Traces, connections: Connections) -> float:
    """KL(model || pruned pass), position by position."""
    paths, total, n = suite.lm.paths, 0.0, 0
    with torch.no_grad():
        for trace in traces():
            p = paths.logits(trace.stream(paths.modules)).log_softmax(-1)
            out = connected(suite, connections)(trace, mode="pruned")
            q = paths.logits(out.residual()).log_softmax(-1)
            kl = (p.exp() * (p - q)).sum(-1)[:, :-1][trace.scored]
            total, n = total + float(kl.sum()), n + len(kl)
    return total / n


def test_the_curve_is_the_pruned_pass_along_the_strongest(suite: Suite, two_batches: Traces) -> None:
    before = suite.connections
    found = scalar(suite, two_batches, points=5)
    edges, strength = len(before), strengths(suite, two_batches)
    assert found["n"] == [0, 1, *found["n"][2:-1], edges]
    for n, kl in zip(found["n"], found["kl"], strict=True):
        kept = strongest(before, strength, n)
        assert len(kept) == n
        assert kl == pytest.approx(divergence(suite, two_batches, kept), rel=1e-9)
    assert found["kl"][0] == pytest.approx(divergence(suite, two_batches, Connections.none(suite.layout)), rel=1e-9)
    assert suite.connections == before, "nothing of the suite has changed"


def test_a_strength_is_a_mean_contribution_times_an_importance(suite: Suite, two_batches: Traces) -> None:
    found = strengths(suite, two_batches, chunk_mb=1)

    def measure(trace: Trace) -> Record:
        return Record(trace.live, trace.scales, suite(trace, mode="pruned").codes)

    sample = Sample(suite, two_batches, measure, megabytes=64)
    for site in suite.sites[1:]:
        if not len(suite.connections[site]):
            continue
        whole = mean_contributions(suite, site, slice(0, suite.layout.size(site)), sample, "activation").abs()
        whole *= importance(suite, site, sample.records)[:, None]
        edges = suite.connections[site]
        torch.testing.assert_close(found[site], whole[edges.down, edges.up.long()])


def test_given_strengths_decide(suite: Suite, two_batches: Traces) -> None:
    connections = suite.connections
    strength = {site: torch.arange(len(connections[site])).double() for site in suite.layout.sites}
    kept = strongest(connections, strength, 3)
    longest = max(suite.layout.sites, key=lambda site: len(connections[site]))
    assert int(connections[longest].up[-1]) in kept[longest].up.tolist()
    ours = scalar(suite, two_batches, points=3, strength=strength)
    theirs = scalar(suite, two_batches, points=3, strength={site: -value for site, value in strength.items()})
    assert ours["kl"][0] == theirs["kl"][0]
    assert ours["kl"][-1] == theirs["kl"][-1]
    assert ours["kl"][2] != theirs["kl"][2]


def test_equal_strengths_go_by_order(suite: Suite) -> None:
    connections = suite.connections
    equal = {site: torch.ones(len(connections[site])) for site in suite.layout.sites}
    first = next(site for site in suite.layout.sites if len(connections[site]))
    kept = strongest(connections, equal, 2)
    assert (kept[first].down.tolist(), kept[first].up.tolist()) == (
        connections[first].down[:2].tolist(),
        connections[first].up[:2].tolist(),
    )
    assert strongest(connections, equal, len(connections)) == connections


def test_areas_by_hand() -> None:
    found = areas([0, 1, 10, 100], [4.0, 3.0, 2.0, 1.0])
    assert found["absolute"] == pytest.approx(3.5 + 9 * 2.5 + 90 * 1.5)
    assert found["relative"] == pytest.approx(found["absolute"] / 100)
    assert found["log_area"] == pytest.approx(2.0)
    assert areas([0], [3.0]) == {"absolute": 0.0, "relative": None, "log_area": None}
    assert areas([0, 1], [3.0, 1.0]) == {"absolute": 2.0, "relative": 2.0, "log_area": 1.0}


def test_numbers_are_spaced_by_their_logarithms() -> None:
    assert numbers(4096, 13) == [0, *(2**k for k in range(13))]
    assert numbers(3, 12) == [0, 1, 2, 3]
    assert numbers(0, 12) == [0]
    found = numbers(294726, 12)
    assert len(found) == 13
    assert [round(math.log(b / a), 1) for a, b in pairwise(found[5:])] == [1.1] * 7


def test_suites_without_connections_and_with_all(suite: Suite, two_batches: Traces) -> None:
    none = scalar(suite, two_batches, connections=Connections.none(suite.layout))
    assert (none["n"], none["relative"]) == ([0], None)
    with pytest.raises(ValueError, match="complete connections are no list of edges"):
        scalar(suite, two_batches, connections=Connections.complete(suite.layout))


def test_with_a_sink_its_logits_count(build_tiny: Make, make_suite: Make, ragged: Make) -> None:
    from scae.sites import SINK, SOURCE

    lm = build_tiny("gpt2").lm
    suite = make_suite(lm, ends=(SOURCE, SINK)).eval()
    suite.connect(ragged(suite.layout))
    tokens = torch.randint(40, (2, 6), generator=torch.Generator().manual_seed(3))
    trace = lm.trace(tokens)
    found = scalar(suite, lambda: [trace], points=3)
    p = lm.paths.logits(trace.stream(lm.paths.modules)).log_softmax(-1)
    with torch.no_grad():
        q = suite(trace, mode="pruned").logits.log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1)[:, :-1][trace.scored].mean()
    assert found["kl"][-1] == pytest.approx(float(kl), rel=1e-9)
