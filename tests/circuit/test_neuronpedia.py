"""The JSON of a circuit: what the schema of attribution graphs asks for, and what of it is ours."""

import copy
import json
from typing import Any

import pytest
from attribution_graphs import SCHEMA, problems
from pruned_suites import Make, Ragged, pruned_suite

from scae.attribution import exact
from scae.circuit.files import check_slug, slug_of
from scae.circuit.graph import Circuit
from scae.circuit.neuronpedia import cantor
from scae.circuit.record import About
from scae.circuit.words import Words
from scae.lm import LanguageModel, Trace
from scae.suite import Suite


@pytest.fixture(scope="module", params=["topk", "both ends", "without an attention", "crosslayer, both ends"])
def sort(request: pytest.FixtureRequest) -> str:
    return request.param


def circuit_of(suite: Suite, one: Trace, labels: dict[str, str] | None = None) -> Circuit:
    found = exact(suite, one)
    about = About(
        kind="prompt",
        subject="</script> & co",
        run="run",
        model="tiny",
        sites=tuple(map(str, suite.layout.sites)),
        n_layers=suite.lm.paths.n_layers,
        absolute=found.absolute,
        relative=found.relative,
    )
    words = Words(suite, labels or {})
    return Circuit.whole(about, words, tuple(map(words.token, one.tokens[0].tolist())), found.nodes, found.links)


@pytest.fixture(scope="module")
def whole(suite: Suite, one: Trace) -> Circuit:
    return circuit_of(suite, one)


def test_it_is_what_the_schema_says(whole: Circuit) -> None:
    for one in (whole, whole.prune(), whole.prune(0.3, 0.5)):
        content = json.loads(json.dumps(one.json("a-slug"), allow_nan=False))
        assert problems(content, SCHEMA) == []
        ids = [node["node_id"] for node in content["nodes"]]
        assert len(set(ids)) == len(ids) == len(one.nodes)
        assert {end for link in content["links"] for end in (link["source"], link["target"])} <= set(ids)
        assert len(content["links"]) == len(one.weight)
        assert content["metadata"]["slug"] == "a-slug"


def test_the_check_sees_what_is_wrong(whole: Circuit) -> None:
    right = whole.prune().json()

    def broken(change: Any) -> list[str]:
        content = copy.deepcopy(right)
        change(content)
        return problems(content, SCHEMA)

    assert "scan is missing" in broken(lambda c: c["metadata"].pop("scan"))[0]
    assert "not of type integer" in broken(lambda c: c["nodes"][0].update(ctx_idx="0"))[0]
    assert "not of type integer" in broken(lambda c: c["nodes"][0].update(feature=True))[0]
    assert "is none of" in broken(lambda c: c["nodes"][0].update(feature_type="attention"))[0]
    assert "does not match" in broken(lambda c: c["nodes"][0].update(node_id="nobody"))[0]
    assert "weight is missing" in broken(lambda c: c["links"][0].pop("weight"))[0]


def test_every_kind_of_node_has_its_name(whole: Circuit) -> None:
    last = whole.about.n_layers + 1
    for number, entry in enumerate(whole.json()["nodes"]):
        node, ours = whole.nodes[number], entry["scae"]
        layer = node.place.split(".")[0]
        assert ours["kind"] == node.kind
        assert entry["ctx_idx"] == node.position
        if node.kind == "feature":
            attn = node.place.endswith("attn")
            assert entry["node_id"] == f"{layer}_{'lor_' if attn else ''}{node.number}_{node.position}"
            assert entry["feature_type"] == ("lorsa" if attn else "cross layer transcoder")
            assert entry["feature"] == cantor(int(layer), node.number)
            assert entry["layer"] == layer
            assert (ours["site"], ours["feature"]) == (node.place, node.number)
            assert ours["preactivation"] == pytest.approx(node.preactivation, rel=1e-5)
            assert entry["activation"] == pytest.approx(node.activation, rel=1e-5)
            assert len(ours["promoted"]) == 5
        elif node.kind == "error":
            assert entry["feature_type"] == ("lorsa error" if "attn" in node.place else "mlp reconstruction error")
        elif node.kind == "logit":
            assert entry["node_id"] == f"{last}_{node.number}_{node.position}"
            assert entry["layer"] == str(last)
            assert entry["clerp"] == f'Output "#{node.number}" (p={node.probability:.3f})'
            assert ours["token"] == node.number
        else:
            assert entry["feature_type"] == {"token": "embedding", "bias": "bias"}[node.kind]
    targets = [node["token_prob"] for node in whole.json()["nodes"] if node.get("is_target_logit")]
    assert targets == [max(node.get("token_prob", 0) for node in whole.json()["nodes"])]


def test_pairs_of_layer_and_feature_have_a_number_each() -> None:
    numbers = [cantor(layer, feature) for layer in range(40) for feature in range(200)]
    assert len(set(numbers)) == len(numbers)
    assert cantor(3, 17) == 20 * 21 // 2 + 17


def test_what_is_ours_is_in_the_metadata(whole: Circuit) -> None:
    pruned = whole.prune(0.6, 0.9)
    meta = pruned.json()["metadata"]
    assert meta["node_threshold"] == 0.6
    assert meta["pruning_settings"] == {"node_threshold": 0.6, "edge_threshold": 0.9}
    assert meta["schema_version"] == 1
    ours = meta["scae"]
    assert ours["pass"] == "pruned"
    assert ours["sites"] == list(whole.about.sites)
    assert ours["exactness"] == whole.about.absolute < 1e-10
    assert (ours["nodes"], ours["edges"]) == (len(pruned.nodes), len(pruned.weight))
    assert (ours["nodes_before"], ours["edges_before"]) == (len(whole.nodes), len(whole.weight))
    assert whole.scores is not None
    assert ours["scores"]["replacement"] == pytest.approx(whole.scores.replacement, rel=1e-5)


def test_pruned_edges_are_edges_of_the_whole(whole: Circuit) -> None:
    def named(circuit: Circuit) -> set[tuple[str, str, float]]:
        return {(link["source"], link["target"], link["weight"]) for link in circuit.json()["links"]}

    pruned = whole.prune()
    assert 0 < len(pruned.weight) < len(whole.weight)
    assert named(pruned) < named(whole)
    with_influence = {node["node_id"]: node["influence"] for node in whole.json()["nodes"]}
    assert all(node["influence"] == with_influence[node["node_id"]] for node in pruned.json()["nodes"])


def test_inputs_and_outputs_of_a_node(whole: Circuit) -> None:
    number = int(whole.nodes.of("logit").nonzero()[0])
    inputs = whole.inputs(number)
    assert sum(weight for _, weight in inputs) == pytest.approx(whole.nodes[number].preactivation)
    sizes = [abs(weight) for _, weight in inputs]
    assert sizes == sorted(sizes, reverse=True)
    token = whole.outputs(0)
    assert {node.kind for node, _ in token} <= {"feature", "logit"}
    assert len(token) == int((whole.source == 0).sum())


def test_a_folder_holds_the_graph_twice(
    lm: LanguageModel, make_suite: Make, ragged: Ragged, one: Trace, tmp_path: Any
) -> None:
    suite = pruned_suite(lm, "topk", make_suite, ragged, one)
    some = exact(suite, one).nodes
    name = next(
        f"{node.place}/{node.number}" for node in map(some.__getitem__, range(len(some))) if node.kind == "feature"
    )
    circuit = circuit_of(suite, one, {name: "says <b>hello</b>"})
    folder = circuit.save(tmp_path / "circuits" / "one")
    content = json.loads((folder / "graph.json").read_text())
    script = (folder / "graph.js").read_text()
    assert script.startswith('scae_data("graph", {')
    assert script.endswith("});\n")
    assert json.loads(script.removeprefix('scae_data("graph", ').removesuffix(");\n")) == content
    assert "<" not in script
    assert content["metadata"]["slug"] == "one"
    site, _, feature = name.partition("/")
    labelled = [
        n for n in content["nodes"] if n["scae"].get("site") == site and n["scae"].get("feature") == int(feature)
    ]
    assert {node["clerp"] for node in labelled if node["scae"]["kind"] == "feature"} == {"says <b>hello</b>"}


def test_a_folder_has_a_name_that_tells_texts_apart() -> None:
    assert slug_of("once upon a time") == "once-upon-a-time"
    long = "once upon a time " * 20
    names = {
        slug_of(text)
        for text in ("Once upon a time", "once upon a time.", "once  upon a time", long, long + ".", "…", "春")
    }
    assert len(names) == 7
    assert all(check_slug(name) == name and len(name) < 60 for name in names)
    for wrong in ("", "..", "../up", "a/b", "-x", "a b"):
        with pytest.raises(ValueError, match="slug"):
            check_slug(wrong)
