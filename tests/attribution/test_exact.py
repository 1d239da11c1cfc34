"""The graph of a window against what the pass, the model and plain formulas say, in float64 on three architectures."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from edge_lists import every_pair
from observing import observed
from pruned_suites import Make, Ragged, pruned_suite

from scae.attribution import KINDS, Exact, Nodes, exact
from scae.connections import Connections
from scae.lm import LanguageModel, Trace
from scae.sites import SINK, SOURCE, Site
from scae.suite import Suite, passes


@pytest.fixture(scope="module")
def graph(suite: Suite, one: Trace) -> Exact:
    return exact(suite, one)


def sums(graph: Exact) -> torch.Tensor:
    out = torch.zeros(len(graph.nodes), dtype=torch.float64)
    return out.index_add(0, graph.links.target, graph.links.weight.double())


def of(nodes: Nodes, *kinds: Any) -> list[int]:
    return nodes.of(*kinds).nonzero()[:, 0].tolist()


def edges(graph: Exact) -> dict[tuple[Any, ...], float]:
    """By (kind, place, number, position) of the source, then of the target."""
    names = [graph.nodes[number][:4] for number in range(len(graph.nodes))]
    columns = zip(*(column.tolist() for column in graph.links), strict=True)
    return {names[source] + names[target]: weight for source, target, weight in columns}


def test_edges_into_a_feature_sum_to_its_preactivation(suite: Suite, one: Trace, graph: Exact) -> None:
    seen, out = observed(suite, one)
    found, total, n_active = graph.nodes, sums(graph), 0
    for number in of(found, "feature"):
        node = found[number]
        pre = seen[Site.parse(node.place)][node.position, node.number].item()
        assert total[number].item() == pytest.approx(pre, rel=1e-10, abs=1e-10)
        assert node.preactivation == pytest.approx(pre, rel=1e-12)
        assert node.activation == out.codes[Site.parse(node.place)].dense()[node.position, node.number].item() > 0
    for site in suite.sites:
        n_active += int((out.codes[site].value > 0).sum())
    assert n_active == len(of(found, "feature")) > len(suite.sites)
    assert graph.relative < 1e-12
    assert graph.absolute < 1e-10


def test_edges_into_a_logit_sum_to_what_the_model_says(suite: Suite, one: Trace, graph: Exact) -> None:
    paths = suite.lm.paths
    logits = paths.logits(one.stream(paths.modules))[0, -1]
    likely = logits.softmax(0)
    centre = 0 if suite.sink is not None else logits.mean()
    total, found = sums(graph), [(number, graph.nodes[number]) for number in of(graph.nodes, "logit")]
    assert 0 < len(found) <= 10
    assert [node.probability for _, node in found] == pytest.approx(
        likely.sort(descending=True).values[: len(found)].tolist()
    )
    for number, node in found:
        assert total[number].item() == pytest.approx((logits[node.number] - centre).item(), rel=1e-10, abs=1e-10)
        assert node.position == one.live.shape[1] - 1
    out = passes.pruned(suite, one)
    pruned = (paths.logits(out.residual()) if out.logits is None else out.logits)[0, -1].softmax(0)
    assert [node.predicted for _, node in found] == pytest.approx([pruned[node.number].item() for _, node in found])


def test_single_precision_is_exact_to_its_rounding(
    lm: LanguageModel, sort: str, make_suite: Make, ragged: Ragged, one: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = pruned_suite(lm, sort, make_suite, ragged, one)
    monkeypatch.setattr(suite.lm, "paths", suite.lm.paths.to(torch.float32))
    rounded = {field.name: in_single(getattr(one, field.name)) for field in fields(one)}
    graph = exact(suite.float(), replace(one, **rounded))
    assert graph.nodes.preactivation.dtype == torch.float32
    total, reads = sums(graph), torch.zeros(len(graph.nodes), dtype=torch.float64)
    reads.index_add_(0, graph.links.target, graph.links.weight.double().abs())
    assert 0 < graph.relative < 1e-5
    for number in of(graph.nodes, "feature", "logit"):
        off = abs(total[number].item() - graph.nodes[number].preactivation)
        assert off <= 1e-5 * reads[number].item()


def in_single(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: in_single(one) for key, one in value.items()}
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def test_edges_between_features_are_the_stored_connections(suite: Suite, graph: Exact) -> None:
    """Each of them, in the order of positions, and every one whose upstream end is active where it is read from."""
    found, stored = graph.nodes, set()
    for site in suite.layout.sites:
        inputs = suite.connections[site]
        for down, up in zip(inputs.down.tolist(), inputs.up.tolist(), strict=True):
            at, number = suite.layout.locate(up)
            stored.add((str(at), number, str(site), down))
    shown = set()
    is_end = {"token": SOURCE, "logit": SINK}
    for source, target in zip(graph.links.source.tolist(), graph.links.target.tolist(), strict=True):
        up, down = found[source], found[target]
        assert found.level[source] < found.level[target]
        assert up.position <= down.position
        if not down.place.endswith("attn"):
            assert up.position == down.position
        connected = up.kind == "feature" and (down.kind == "feature" or suite.sink is not None)
        if up.kind == "token" and suite.source is not None and up.position > 0:
            connected = down.kind == "feature" or suite.sink is not None
        if connected:
            ends = [str(is_end[one.kind]) if one.kind in is_end else one.place for one in (up, down)]
            shown.add((ends[0], up.number, ends[1], down.number))
    assert shown <= stored
    active = [found[number] for number in of(found, "feature")]
    linked = set(edges(graph))
    for down in active:
        for up in active:
            if (up.place, up.number, down.place, down.number) in stored:
                reads = up.position <= down.position if down.place.endswith("attn") else up.position == down.position
                assert (up[:4] + down[:4] in linked) == reads


def test_an_edge_is_the_formula(
    lm: LanguageModel, make_suite: Make, ragged: Ragged, one: Trace, architecture: str
) -> None:
    """Through every head by hand: from a feature, from the embedding, and from the constants at a position."""
    suite = pruned_suite(lm, "relu", make_suite, ragged, one)
    graph, paths = exact(suite, one), lm.paths
    linked, last = edges(graph), paths.n_layers - 1
    out = passes.pruned(suite, one)
    n_inputs = torch.bincount(graph.links.target, minlength=len(graph.nodes))
    there = [n for n in of(graph.nodes, "feature") if graph.nodes[n].place == f"{last}.attn"]
    down = graph.nodes[max(there, key=lambda n: int(n_inputs[n]))]
    site, q = Site(last, "attn"), down.position
    E = suite[site].encoder.W[down.number] / suite[site].reads.scale
    per_kv = paths.W_O.shape[1] // paths.W_V.shape[1]
    compared = set()
    for (*up, kind, place, number, position), weight in linked.items():
        if (kind, place, number, position) != down[:4]:
            continue
        k = up[3]
        if up[0] == "feature":
            dictionary = suite[Site.parse(up[1])]
            f = out.codes[Site.parse(up[1])].dense()[k, up[2]]
            written = f * dictionary.decoder.W[up[2]] * dictionary.writes.scale
        elif up[0] == "token":
            written = one.embed[0, k]
        else:
            written = torch.zeros(paths.d_model, dtype=torch.float64)
            for module in paths.modules:
                if module.layer < last:
                    own = suite[Site(module.layer, module.kind)]
                    written = written + (own.constant if one.live[0, k] else one.outputs[module][0, k])
        if architecture != "llama":
            written = written - written.mean()
        x = written / one.scales[site.module][0, k]
        assert one.patterns is not None
        moved = sum(
            one.patterns[last][0, h, q, k] * (x @ paths.W_V[last, h // per_kv] @ paths.W_O[last, h])
            for h in range(paths.W_O.shape[1])
        )
        expected = (moved @ E).item()
        if up[0] == "bias" and k == q:
            own, reads = suite[site], suite[site].reads
            expected += (own.encoder.b[down.number] + E @ (paths.b_O[last] - reads.centre)).item()
            expected -= (own.encoder.W[down.number] @ own.decoder.b).item()
        assert weight == pytest.approx(expected, rel=1e-9, abs=1e-11)
        compared.add(up[0])
    assert compared == {"feature", "token", "bias"}


def test_the_constant_part_of_a_node_is_what_biases_give(suite: Suite, graph: Exact) -> None:
    constant = torch.zeros(len(graph.nodes), dtype=torch.float64)
    from_bias = graph.nodes.of("bias")[graph.links.source]
    constant.index_add_(0, graph.links.target[from_bias], graph.links.weight[from_bias])
    feature = graph.nodes.of("feature")
    torch.testing.assert_close(constant[feature], graph.nodes.constant[feature], rtol=1e-9, atol=1e-11)
    assert constant[feature].abs().min() > 0


def test_what_a_feature_would_be_in_the_plain_pass(suite: Suite, one: Trace, graph: Exact) -> None:
    for site, read in passes.true_inputs(suite, one):
        pre = suite[site].encoder.preactivations(suite[site].shift(read.flatten(0, 1)))
        for node in (graph.nodes[n] for n in of(graph.nodes, "feature")):
            if node.place == str(site):
                assert node.plain == pytest.approx(pre[node.position, node.number].item())


def test_a_position_that_sees_no_text_has_a_token_and_constants(suite: Suite, one: Trace, graph: Exact) -> None:
    assert not one.live[0, 0]
    at_bos = {KINDS[int(kind)] for kind in graph.nodes.kind[graph.nodes.position == 0]}
    assert at_bos == {"token", "bias"}


def test_modules_without_a_dictionary_are_errors_all_read(
    lm: LanguageModel, make_suite: Make, ragged: Ragged, one: Trace
) -> None:
    suite = pruned_suite(lm, "without an attention", make_suite, ragged, one)
    graph = exact(suite, one)
    linked = edges(graph)
    reads = {edge[:2] + edge[4:5] for edge in linked if edge[0] == "error"}
    assert ("error", "0.attn", "logit") in reads
    assert ("error", "0.attn", "feature") in reads
    assert ("error", "0.mlp", "logit") in reads  # what its dictionary does not rebuild
    assert ("error", "0.mlp", "feature") not in reads  # the pruned pass knows nothing of it


def test_no_more_logits_than_asked_for(lm: LanguageModel, make_suite: Make, ragged: Ragged, one: Trace) -> None:
    suite = pruned_suite(lm, "topk", make_suite, ragged, one)
    assert len(of(exact(suite, one, most=3, probability=1.0).nodes, "logit")) == 3
    first = exact(suite, one, probability=1e-9).nodes
    assert len(of(first, "logit")) == 1
    assert len(of(exact(suite, one, most=10_000, probability=1.0).nodes, "logit")) <= len(suite.lm.paths.b_U)


def test_what_has_no_circuit_says_why(
    lm: LanguageModel, trace: Trace, one: Trace, make_suite: Make, ragged: Ragged
) -> None:
    suite = make_suite(lm)
    with pytest.raises(ValueError, match="not pruned"):
        exact(suite, one)
    suite.connect(ragged(suite.layout))
    with pytest.raises(ValueError, match="a single window, got 3"):
        exact(suite, trace)
    batch = make_suite(lm, activation="batchtopk")
    batch.connect(ragged(batch.layout))
    batch.threshold_pass = "plain"
    with pytest.raises(ValueError, match="thresholds of the suite belong to the pass plain"):
        exact(batch, one)


def test_without_connections_there_are_still_constants_and_tokens(
    lm: LanguageModel, make_suite: Make, one: Trace
) -> None:
    suite = make_suite(lm)
    suite.connect(Connections.none(suite.layout))
    graph = exact(suite, one)
    assert graph.relative < 1e-12
    assert {edge[0] for edge in edges(graph) if edge[4] == "feature"} == {"token", "bias"}


def test_all_connections_written_out_have_an_edge_each(lm: LanguageModel, make_suite: Make, one: Trace) -> None:
    suite = make_suite(lm)
    suite.connect(every_pair(suite))
    graph = exact(suite, one)
    assert graph.relative < 1e-12
    first, last = str(suite.sites[0]), f"{lm.paths.n_layers - 1}.mlp"
    sources = [n for n in map(graph.nodes.__getitem__, of(graph.nodes, "feature")) if n.place == first]
    targets = [n for n in map(graph.nodes.__getitem__, of(graph.nodes, "feature")) if n.place == last]
    linked = edges(graph)
    pairs = [up[:4] + down[:4] for up in sources for down in targets if up.position == down.position]
    assert len(pairs) > 0
    assert all(pair in linked for pair in pairs)


def test_a_site_where_nothing_is_active_has_no_nodes(
    lm: LanguageModel, make_suite: Make, ragged: Ragged, one: Trace
) -> None:
    silent = pruned_suite(lm, "topk", make_suite, ragged, one)
    for site in silent.sites[1:3]:
        silent[site].encoder.b.data -= 1e4
    graph = exact(silent, one)
    found = {graph.nodes[number].place for number in of(graph.nodes, "feature")}
    assert found == {str(site) for number, site in enumerate(silent.sites) if number not in (1, 2)}
    assert graph.absolute < 1e-10
