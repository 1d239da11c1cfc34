"""Edges as predictions: change what is active upstream in the pruned pass, and see what moves (in float64)."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from observing import observed
from pruned_suites import Make, Ragged, pruned_suite

from scae.attribution import Exact, exact
from scae.dictionaries import Activation
from scae.kernels import SparseCode
from scae.lm import LanguageModel, Trace
from scae.sites import Site
from scae.suite import Suite, passes

pytestmark = pytest.mark.parametrize(
    "sort", ["topk", "gated", "both ends", "without an attention", "crosslayer"], scope="module"
)


class Forced(Activation):
    """Says what it was told, whatever it reads."""

    def __init__(self, code: SparseCode) -> None:
        super().__init__()
        self.code = code

    def support(self, pre: torch.Tensor, live: torch.Tensor) -> SparseCode:
        return self.code

    def forward(self, code: SparseCode) -> SparseCode:
        return self.code


@contextmanager
def forced(suite: Suite, codes: dict[Site, SparseCode]) -> Iterator[None]:
    """Every site of `codes` says these; none is cut at a ceiling."""
    before = {site: (suite[site].activation, suite[site].ceiling.clone()) for site in codes}
    for site, code in codes.items():
        suite[site].activation = Forced(code)
        suite[site].ceiling.fill_(torch.inf)
    try:
        yield
    finally:
        for site, (activation, ceiling) in before.items():
            suite[site].activation = activation
            suite[site].ceiling.copy_(ceiling)


def preactivations(suite: Suite, trace: Trace) -> tuple[dict[Site, torch.Tensor], torch.Tensor]:
    """Of every feature, and the logits of the last position with the frozen final scale, in the pruned pass."""
    with torch.no_grad():
        seen, out = observed(suite, trace)
    paths = suite.lm.paths
    if out.logits is not None:
        return seen, out.logits[0, -1]
    final = paths.centre(out.residual()[0, -1]) / paths.scale(trace.stream(paths.modules))[0, -1]
    logits = final @ paths.W_U + paths.b_U
    return seen, logits - logits.mean()


def test_a_preactivation_moves_by_exactly_the_edge(suite: Suite, one: Trace, graph: Exact) -> None:
    """A dozen of the active features in turn, at their position alone; whatever else is active is held as it was."""
    nodes, links = graph.nodes, graph.links
    with torch.no_grad():
        codes = passes.pruned(suite, one).codes
    with forced(suite, codes):
        before, logits_before = preactivations(suite, one)
    edges: dict[int, dict[int, float]] = {}
    for source, target, weight in zip(*(column.tolist() for column in links), strict=True):
        edges.setdefault(source, {})[target] = weight
    at = {(nodes[n].place, nodes[n].number, nodes[n].position): n for n in of(graph, "feature")}
    n_moved = 0
    for (place, number, position), source in list(at.items())[:: max(1, len(at) // 12)]:
        site = Site.parse(place)
        code = codes[site]
        entry = (code.row == position) & (code.col == number)
        value = code.value.clone()
        value[entry] *= 1.5  # by half of what it was: each edge predicts half of its weight
        with forced(suite, codes | {site: code.with_values(value)}):
            after, logits_after = preactivations(suite, one)
        for down in of(graph, "feature"):
            target = nodes[down]
            change = (after[Site.parse(target.place)] - before[Site.parse(target.place)])[
                target.position, target.number
            ]
            predicted = 0.5 * edges.get(source, {}).get(down, 0.0)
            assert change.item() == pytest.approx(predicted, rel=1e-9, abs=1e-12)
            n_moved += abs(predicted) > 1e-9
        for down in of(graph, "logit"):
            change = logits_after[nodes[down].number] - logits_before[nodes[down].number]
            assert change.item() == pytest.approx(0.5 * edges.get(source, {}).get(down, 0.0), rel=1e-9, abs=1e-11)
    assert n_moved > 10


def test_the_whole_graph_predicts_what_a_small_change_does(suite: Suite, one: Trace, graph: Exact) -> None:
    """Not held: what is active downstream follows, along every path of the graph, while no feature begins or ceases to
    fire and none stands at its ceiling."""
    for site in suite.sites:
        suite[site].ceiling.fill_(torch.inf)
    graph = exact(suite, one)
    nodes, links, step = graph.nodes, graph.links, 1e-7
    with torch.no_grad():
        codes = passes.pruned(suite, one).codes
    before, _ = preactivations(suite, one)
    first = suite.sites[0]
    to_features = torch.bincount(links.source[nodes.of("feature")[links.target]], minlength=len(nodes))
    there = [n for n in of(graph, "feature") if nodes[n].place == str(first)]
    source = max(there, key=lambda n: int(to_features[n]))
    code, start = codes[first], nodes[source]
    value = code.value.clone()
    value[(code.row == start.position) & (code.col == start.number)] += step * start.activation
    with forced(suite, {first: code.with_values(value)}):
        after, _ = preactivations(suite, one)
    moved = torch.zeros(len(nodes), dtype=torch.float64)
    moved[source] = 1.0  # as a share of the activation
    for target in sorted(of(graph, "feature"), key=lambda n: int(nodes.level[n])):
        into = links.target == target
        change = (links.weight[into] * moved[links.source[into]]).sum().item()
        node = nodes[target]
        if target == source or node.place == str(first):
            continue
        own = suite[Site.parse(node.place)]
        slope = own.activation.r_mag.exp()[node.number].item() if hasattr(own.activation, "r_mag") else 1.0
        moved[target] = slope * change / node.activation
        seen = (after[Site.parse(node.place)] - before[Site.parse(node.place)])[node.position, node.number].item()
        assert seen / step == pytest.approx(change, rel=1e-4, abs=1e-6)
    assert (moved != 0).sum() > 3


def of(graph: Exact, kind: str) -> list[int]:
    return graph.nodes.of(kind).nonzero()[:, 0].tolist()  # type: ignore[arg-type]


@pytest.fixture
def suite(lm: LanguageModel, sort: str, make_suite: Make, ragged: Ragged, one: Trace) -> Suite:
    return pruned_suite(lm, sort, make_suite, ragged, one)


@pytest.fixture
def graph(suite: Suite, one: Trace) -> Exact:
    return exact(suite, one)
