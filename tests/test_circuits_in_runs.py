"""Circuits of a finished run: from Python, by the command, and what the command says where there is none."""

import json
from pathlib import Path

import pytest
from attribution_graphs import SCHEMA, problems
from experiments import ROOT, Finished, alone, execute, finish, made, variation
from test_runs import record

from scae import open_run
from scae.circuit import around, circuit
from scae.circuit.__main__ import main
from scae.experiment.opened import Run
from scae.sites import Site

_ = alone, made  # fixtures of the tests here, too
TEXT = "ban kolo ris tame ba"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    run = finish(tmp_path_factory)
    record(run.output, run, cwd=ROOT)
    return run


@pytest.fixture(scope="module")
def run(finished: Finished) -> Run:
    return open_run(finished.output)


def test_three_lines(run: Run) -> None:
    whole = circuit(run, TEXT)
    assert whole.tokens[0] == "<bos>"
    assert "".join(whole.tokens[1:]) == TEXT
    assert whole.about.relative is not None
    assert whole.about.relative < 1e-5
    pruned = whole.prune()
    assert 0 < len(pruned) < len(whole)
    assert problems(json.loads(json.dumps(pruned.json(), allow_nan=False)), SCHEMA) == []


def test_the_command_writes_a_folder(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([str(run.folder), TEXT]) == 0
    default = run.folder / "circuits" / "ban-kolo-ris-tame-ba"
    content = json.loads((default / "graph.json").read_text())
    assert problems(content, SCHEMA) == []
    assert content["metadata"]["prompt"] == TEXT
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{len(content['nodes'])} of ")
    assert str(default) in said[1]
    before = (default / "graph.json").read_bytes()
    assert main([str(run.folder), TEXT]) == 0
    assert (default / "graph.json").read_bytes() == before
    some = ["--logits", "2", "--node-threshold", "0.4", "--edge-threshold", "0.5", "--out", str(tmp_path / "there")]
    assert main([str(run.folder), TEXT, *some]) == 0
    fewer = json.loads((tmp_path / "there" / "graph.json").read_text())
    assert sum(node["feature_type"] == "logit" for node in fewer["nodes"]) <= 2
    assert len(fewer["nodes"]) < len(content["nodes"])
    assert fewer["metadata"]["slug"] == content["metadata"]["slug"] == default.name
    assert main([str(run.folder), TEXT, "--slug", "mine"]) == 0
    assert json.loads((run.folder / "circuits" / "mine" / "graph.json").read_text())["metadata"]["slug"] == "mine"


def test_labels_are_shown(run: Run) -> None:
    labels = run.folder / "labels.json"
    name = next(node for node in map(circuit(run, TEXT).nodes.__getitem__, range(1000)) if node.kind == "feature")
    labels.write_text(json.dumps({"format": 1, "labels": {f"{name.place}/{name.number}": {"label": "syllables"}}}))
    try:
        assert "syllables" in {node["clerp"] for node in circuit(run, TEXT).json()["nodes"]}
        labels.write_text("{")
        with pytest.raises(ValueError, match=r"labels\.json is not valid JSON"):
            circuit(run, TEXT)
    finally:
        labels.unlink()


def feature_with_inputs(run: Run, site: str) -> int:
    return int(run.suite.connections[Site.parse(site)].crow.diff().argmax())


def test_the_connections_around_a_feature(run: Run) -> None:
    suite, feature = run.suite, feature_with_inputs(run, "1.attn")
    found = around(run, f"1.attn/{feature}", strongest=None)
    names = {
        (node.place, node.number): number for number, node in enumerate(map(found.nodes.__getitem__, range(len(found))))
    }
    root = names["1.attn", feature]
    inputs = {(node.place, node.number): weight for node, weight in found.inputs(root)}
    expected = {(str(one.site), one.feature): one.weight for one in suite.inputs("1.attn", feature)}
    assert inputs == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert len(inputs) > 1
    layout = suite.layout
    counted = layout.offset(Site(1, "attn")) + feature
    readers = suite.connections[Site(1, "mlp")]
    assert {(node.place, node.number) for node, _ in found.outputs(root)} == {
        ("1.mlp", down) for down in readers.down[readers.up == counted].tolist()
    }
    content = json.loads(json.dumps(found.json(), allow_nan=False))
    assert problems(content, SCHEMA) == []
    assert content["qParams"]["clickedId"] == f"1_lor_{feature}_0"
    assert content["metadata"]["scae"]["kind"] == "global"
    assert content["metadata"]["scae"]["weight"] == "virtual weight"
    with pytest.raises(ValueError, match="no logits"):
        found.prune()


def test_steps_and_the_strongest_only(run: Run) -> None:
    feature = f"1.mlp/{feature_with_inputs(run, '1.mlp')}"
    one, two = (around(run, feature, steps=steps, strongest=3) for steps in (1, 2))
    assert len(one.weight) == 3
    assert len(one) < len(two)
    strongest = sorted((abs(edge.weight) for edge in run.suite.inputs(*split(feature))), reverse=True)[:3]
    assert sorted(one.weight.abs().tolist(), reverse=True) == pytest.approx(strongest, rel=1e-4)
    pairs = list(zip(two.source.tolist(), two.target.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)


def split(feature: str) -> tuple[str, int]:
    site, _, number = feature.partition("/")
    return site, int(number)


def test_the_command_for_a_feature(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run.folder), "--global", "1.mlp/3", "--steps", "2", "--slug", "static"]) == 0
    content = json.loads((run.folder / "circuits" / "static" / "graph.json").read_text())
    assert problems(content, SCHEMA) == []
    assert f"{len(content['links'])} connections around 1.mlp/3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ba"], ""),
        ([""], "the prompt is empty"),
        ([], "give a prompt, as in RUN_DIR"),
        (["ba", "--global", "1.mlp/3"], "give a prompt, as in RUN_DIR"),
        (["ba " * 3000], "the model takes at most"),
        (["ba", "--slug", "../up"], "slug '../up'"),
        (["ba", "--logits", "0"], "logits=0"),
        (["ba", "--node-threshold", "1.5"], "node_threshold=1.5"),
        (["--global", "1.mlp"], "'1.mlp' is no feature"),
        (["--global", "7.mlp/3"], "the suite has no site 7.mlp, but 0.attn, 0.mlp, 1.attn, 1.mlp"),
        (["--global", "1.mlp/99999"], "feature 99999 of 1.mlp, which has features 0.."),
        (["--global", "1.mlp/3", "--steps", "0"], "steps=0"),
        (["--global", "1.mlp/3", "--strongest", "0"], "strongest=0"),
    ],
)
def test_one_line_says_what_is_wrong(
    run: Run, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    status = main([str(run.folder), *arguments])
    error = capsys.readouterr().err
    if not message:
        assert (status, error) == (0, "")
        return
    assert status == 2
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_no_run_and_no_pruned_suite(finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "ba"]) == 2
    assert f"{tmp_path} is no finished run" in capsys.readouterr().err
    unpruned = ("sites=resid", "sites.layers=[1]", "evaluation.twins=false")
    config = variation(finished, tmp_path, *unpruned)
    execute(config)
    output = Path(config.paths.output)
    record(output, finished, *unpruned, cwd=ROOT)
    for arguments in (["ba"], ["--global", "1.mlp/3"]):
        assert main([str(output), *arguments]) == 2
        assert "the suite is not pruned" in capsys.readouterr().err
