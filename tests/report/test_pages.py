"""The pages of a run and of a sweep: what they are told, and that what lies beside them is theirs and whole."""

import base64
import json
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_analysis import NASTY, write_analysis

from scae.report import ReportError, write_run, write_sweep
from scae.report.__main__ import main
from scae.report.analysis_files import Analysis
from scae.report.pages.examples import AFTER, BEFORE, FULL
from scae.report.pages.features import SHARD
from scae.report.pages.folder import ASSETS, page
from scae.report.pages.scripts import packed, script

Put = Callable[..., Path]
Make = Callable[..., dict[str, float]]
SITES = ("0.attn", "0.mlp", "1.attn", "1.mlp")
FEATURES = SHARD + 20


def value(path: Path) -> Any:
    """What a file of data gives to the page."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith("scae_data(")
    assert text.endswith(");\n")
    _, found = json.loads(f"[{text[len('scae_data(') : -len(');') - 1]}]")
    if isinstance(found, dict) and "packed" in found:
        found = json.loads(zlib.decompress(base64.b64decode(found["packed"])))
    return found


def data(run: Path) -> Path:
    """The folder that the page names."""
    name = re.search(r'data-root="([^"]+)"', (run / "report.html").read_text())
    assert name
    return run / name[1]


def block_texts(node: Any) -> list[str]:
    """Every string in a report."""
    if isinstance(node, dict):
        return [text for one in node.values() for text in block_texts(one)]
    if isinstance(node, list):
        return [text for one in node for text in block_texts(one)]
    return [node] if isinstance(node, str) else []


@pytest.fixture(scope="module")
def analysis_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_analysis(tmp_path_factory.mktemp("analysis") / "analyze-1", sites=SITES, features=FEATURES, ends=True)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, analysis_folder: Path, make: Make) -> Path:
    """A run with an analysis and a label, and its report."""
    run = tmp_path_factory.mktemp("written") / "run"
    run.mkdir()
    (run / "metrics.json").write_text(json.dumps(make()))
    (run / "run.json").write_text(json.dumps({"stages": {"analyze": str(analysis_folder)}}))
    label = {"label": "a <b>cat</b>", "detection": 0.81, "fuzzing": 0.7}
    (run / "labels.json").write_text(json.dumps({"format": 1, "labels": {"1.mlp/3": label}}))
    write_run(run)
    return run


@pytest.fixture
def analysed(tmp_path: Path, written: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(written, tmp_path / "run"))


@pytest.mark.parametrize("text", [*NASTY, "-->", "]]>", 'x");alert(1);("'])
def test_no_text_ends_the_script_that_holds_it(text: str) -> None:
    for made in (script, packed):
        file = made("key", {"text": text, text: [text]})
        assert not set("<>&\u2028\u2029") & set(file)
    assert json.loads("[" + script(text, text)[len("scae_data(") : -3] + "]") == [text, text]


def test_what_is_no_number_is_an_error_and_not_a_page_that_does_not_load() -> None:
    with pytest.raises(ValueError, match="JSON"):
        script("key", float("nan"))


def test_the_name_of_a_run_is_escaped(tmp_path: Path, put: Put, metrics: dict[str, float]) -> None:
    run = put(tmp_path / '"><img src=x>', metrics)
    write_run(run)
    assert "<img" not in (run / "report.html").read_text()
    assert "<img" not in page("features.html", {"title": "<img>", "data": "x", "assets": "y"})


def test_pages_name_nothing_outside_their_folder(analysed: Path) -> None:
    for name in ("report.html", "features.html"):
        text = (analysed / name).read_text()
        for address in re.findall(r'(?:src|href)="([^"]+)"', text):
            assert (analysed / address).is_file(), address
        assert "{{" not in text
        assert not re.search(r"<script(?! src)", text)
    ours = [path for path in ASSETS.iterdir() if not path.name.startswith("uPlot")]
    for path in ours:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")  # a name, which nobody loads
        assert "://" not in text, path.name


def test_our_scripts_never_parse_html() -> None:
    for path in ASSETS.glob("*.js"):
        if not path.name.startswith("uPlot"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)


def test_a_run_without_an_analysis_says_how_to_get_one(tmp_path: Path, put: Put, metrics: dict[str, float]) -> None:
    run = put(tmp_path / "run", metrics, ["sae=topk", "connectivity.C=16", "stages=[evaluate]"])
    write_run(run)
    told = "\n".join(block_texts(value(data(run) / "report.js")))
    assert f"`python train.py sae=topk connectivity.C=16 stages=[evaluate,analyze] hydra.run.dir={run}`" in told
    assert not (run / "features.html").exists()


def test_the_report_holds_the_table_of_arms(analysed: Path) -> None:
    report = value(data(analysed) / "report.js")
    sections = {section["id"]: section["blocks"] for section in report["sections"]}
    table = sections["arms"][0]
    row = next(row for row in table["rows"] if row["cells"][0] == "pruned")
    assert row["kind"] == "strong"
    assert dict(zip(table["headers"], row["cells"], strict=True))["CE"] == "1.980"
    plot = sections["fvu"][0]
    assert plot["names"] == ["0.attn", "0.mlp", "1.attn", "1.mlp", "2.attn", "2.mlp", "3.attn", "3.mlp"]
    line = next(line for line in plot["lines"] if line["label"] == "pruned")
    assert line["strong"]
    assert line["y"][0] == pytest.approx(
        json.loads((analysed / "metrics.json").read_text())["pruned/fvu/0.attn"], rel=1e-5
    )
    assert {"features", "ablation", "faithfulness", "connections", "costs", "places"} <= set(sections)
    pair = next(block for block in sections["faithfulness"] if block["type"] == "table")
    assert pair["headers"][3:5] == ["rank", "rank, random"]


def test_circuits_are_linked_with_their_prompts(tmp_path: Path, put: Put, metrics: dict[str, float]) -> None:
    run = put(tmp_path / "run", metrics)
    for slug, prompt in (("one", "Once upon"), ("two", None)):
        (run / "circuits" / slug).mkdir(parents=True)
        (run / "circuits" / slug / "circuit.html").touch()
        if prompt is not None:
            (run / "circuits" / slug / "graph.json").write_text(json.dumps({"metadata": {"prompt": prompt}}))
    write_run(run)
    sections = {section["id"]: section["blocks"] for section in value(data(run) / "report.js")["sections"]}
    items = sections["look"][0]["items"]
    assert [item["href"] for item in items] == ["circuits/one/circuit.html", "circuits/two/circuit.html"]
    assert [item["note"] for item in items] == ["Once upon", ""]


def test_old_data_goes_and_the_same_data_stays(analysed: Path) -> None:
    write_run(analysed)
    first = data(analysed)
    stale = analysed / "pages" / "data-000000000000"
    stale.mkdir()
    (analysed / "pages" / ".data-1.tmp").mkdir()
    write_run(analysed)
    assert data(analysed) == first
    assert sorted(path.name for path in (analysed / "pages").iterdir()) == ["assets", first.name]
    (analysed / "labels.json").unlink()
    write_run(analysed)
    assert data(analysed) != first
    assert not first.exists()


def test_an_analysis_that_is_gone_takes_its_pages_along(analysed: Path) -> None:
    (analysed / "run.json").write_text("{}")
    write_run(analysed)
    assert not (analysed / "features.html").exists()
    assert [path.name for path in data(analysed).iterdir()] == ["report.js"]


def test_a_run_that_was_only_analysed_has_pages(analysed: Path, capsys: pytest.CaptureFixture) -> None:
    (analysed / "metrics.json").write_text('{"analysis/x": 0.5, "time/analyze": 3.0}')
    assert main([str(analysed)]) == 0
    assert str(analysed / "features.html") in capsys.readouterr().out
    sections = {section["id"] for section in value(data(analysed) / "report.js")["sections"]}
    assert {"features", "ablation", "look"} <= sections
    assert not {"arms", "fvu"} & sections


def test_a_damaged_analysis_is_named_on_the_page(analysed: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "analyze-2"
    damaged.mkdir()
    (damaged / "analysis.json").write_text('{"format": 99}')
    (analysed / "run.json").write_text(json.dumps({"stages": {"analyze": str(damaged)}}))
    write_run(analysed)
    assert any("format 99" in text for text in block_texts(value(data(analysed) / "report.js")))


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 2, "labels": {}}', '{"format": 1}'])
def test_labels_that_are_none_are_one_line(analysed: Path, content: str, capsys: pytest.CaptureFixture) -> None:
    (analysed / "labels.json").write_text(content)
    with pytest.raises(ReportError, match=r"labels\.json"):
        write_run(analysed)
    assert main([str(analysed)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_command_says_where_the_pages_are(analysed: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(analysed)]) == 0
    printed = capsys.readouterr().out
    assert str(analysed / "report.html") in printed
    assert str(analysed / "features.html") in printed


def test_examples_are_what_the_codes_say(analysed: Path, analysis_folder: Path) -> None:
    """Place and strength of every token shown, against a loop over the activations."""
    analysis, folder = Analysis(analysis_folder), data(analysed)
    text, meta = value(folder / "tokens.js"), value(folder / "features.js")
    site = meta["listed"][3]
    assert meta["sites"][site]["site"] == "1.mlp"
    context, tables = analysis.context_size, analysis.features("1.mlp")
    for feature in (0, 3, SHARD + 1):
        own = value(folder / f"site{site}" / f"{feature // SHARD}.js")[feature % SHARD]
        index = value(folder / f"site{site}" / "index.js")
        for number, mode in enumerate(analysis.passes):
            fires = dict(analysis.tokens_of("1.mlp", feature, mode))
            largest = float(tables["max"][number, feature])
            assert index["max"][number][feature] == pytest.approx(largest, rel=5e-3)
            tops = tables["top"][number, feature].tolist()
            tops = [token for token in tops if token >= 0]
            assert len(tops) == len(own["top"][number])
            for token, (place, *pairs) in zip(tops, own["top"][number], strict=True):
                shown = dict(zip(pairs[::2], pairs[1::2], strict=True))
                first = token - token % context
                around = range(max(first, token - BEFORE), min(first + context, token + AFTER + 1))
                assert set(shown) == {near - token for near in around if near in fires}
                for offset, strength in shown.items():
                    assert strength / FULL * largest == pytest.approx(fires[token + offset], abs=largest / FULL)
                words = [text["vocabulary"][text["ids"][place + near - token]] for near in around]
                assert words == [analysis.vocabulary[analysis.tokens["id"][near]] for near in around]


def test_text_around_examples_knows_documents_and_what_is_no_text(analysed: Path, analysis_folder: Path) -> None:
    analysis, text = Analysis(analysis_folder), value(data(analysed) / "tokens.js")
    live, document = analysis.tokens["live"], analysis.tokens["document"]
    # every window is used here: places are the numbers of the whole text
    assert len(text["ids"]) == analysis.n_tokens
    assert text["no_text"] == np.flatnonzero(~live).tolist()
    found = np.repeat(text["segments"][1], np.diff([*text["segments"][0], analysis.n_tokens]))
    assert found.tolist() == document.tolist()


def test_only_windows_with_an_example_are_kept(tmp_path: Path) -> None:
    from scae.report.pages.tokens import Texts

    analysis = Analysis(write_analysis(tmp_path / "a", features=4, windows=200, context=32, l0=1))
    texts = Texts(analysis)
    assert 0 < len(texts.windows) < 200
    place = texts.place(np.asarray([int(texts.windows[1]) * 32 + 5, -1]))
    assert place.tolist() == [32 + 5, -1]


def test_edges_are_those_of_the_analysis(analysed: Path, analysis_folder: Path) -> None:
    analysis, folder = Analysis(analysis_folder), data(analysed)
    text, meta = value(folder / "tokens.js"), value(folder / "features.js")
    site = analysis.site_names.index("1.attn")
    own = value(folder / f"site{site}" / "0.js")[7]
    tables = analysis.features("1.attn")
    ends = set()
    for side in ("inputs", "outputs"):
        start, stop = tables[f"{side}_crow"][7:9]
        edges = [tables[f"{side}_{name}"][start:stop].tolist() for name in ("site", "feature", "weight", "mean")]
        assert stop > start
        told = own[side]
        for i, (up, number, weight, mean) in enumerate(zip(*edges, strict=True)):
            name = meta["sites"][told["site"][i]]["site"]
            assert name == analysis.site_names[up]
            if name in ("embed", "unembed"):
                ends.add(name)
                assert text["vocabulary"][told["feature"][i]] == analysis.vocabulary[number]
            else:
                assert told["feature"][i] == number
            assert told["weight"][i] * told["units"][0] == pytest.approx(weight, abs=1e-3)
            assert told["mean"][i] * told["units"][1] == pytest.approx(mean, abs=1e-3)
    assert ends == {"embed", "unembed"}
    assert own["constant"] == pytest.approx(float(tables["inputs_constant"][7]), rel=1e-3)


def test_the_list_of_a_site_has_labels_states_and_top_tokens(analysed: Path, analysis_folder: Path) -> None:
    analysis, folder = Analysis(analysis_folder), data(analysed)
    index = value(folder / f"site{analysis.site_names.index('1.mlp')}" / "index.js")
    text = value(folder / "tokens.js")
    assert index["labels"] == {"3": {"label": "a <b>cat</b>", "detection": 0.81, "fuzzing": 0.7}}
    assert index["state"] == analysis.features("1.mlp")["state"].tolist()
    strongest = next(iter(analysis.tokens_of("1.mlp", 0)))[0]
    assert text["vocabulary"][index["top"][0]] == analysis.vocabulary[analysis.tokens["id"][strongest]]
    assert index["top"][-1] == -1  # never fires
    assert index["mean"][0][-1] is None


def test_a_suite_that_is_not_pruned_has_pages_too(tmp_path: Path, put: Put, metrics: dict[str, float]) -> None:
    run = put(tmp_path / "run", metrics)
    write_analysis(run / "analyze-1", sites=SITES[:2], features=20, pruned=False)
    (run / "run.json").write_text(json.dumps({"stages": {"analyze": "analyze-1"}}))
    write_run(run)
    own = value(data(run) / "site0" / "0.js")[0]
    assert len(own["top"]) == 1
    assert "inputs" not in own
    assert "agreement" not in value(data(run) / "site0" / "index.js")


@pytest.mark.slow
def test_ten_thousand_features_fit_and_a_page_loads_little(tmp_path: Path, put: Put, metrics: dict[str, float]) -> None:
    run = put(tmp_path / "run", metrics)
    write_analysis(run / "analyze-1", sites=SITES[:2], features=5000, windows=16, degree=16)
    (run / "run.json").write_text(json.dumps({"stages": {"analyze": "analyze-1"}}))
    write_run(run)
    folder = data(run)
    total = sum(path.stat().st_size for path in folder.rglob("*.js"))
    assert total < 20e6
    needed = [folder / name for name in ("features.js", "tokens.js", "site1/index.js", "site1/7.js")]
    assert sum(path.stat().st_size for path in needed) < 1.5e6


def test_a_sweep_links_its_jobs_and_plots_against_c(sweep: Path) -> None:
    for number in range(4):
        write_run(sweep / str(number))
    write_sweep(sweep)
    report = value(data(sweep) / "report.js")
    sections = {section["id"]: section["blocks"] for section in report["sections"]}
    ce, fvu = sections["plots"][0]["blocks"]
    assert ce["names"] == fvu["names"] == ["4", "16", "64", "256"]
    pruned = next(line for line in ce["lines"] if line["label"] == "pruned")
    assert pruned["y"][2] == pytest.approx(1.98)
    assert next(line for line in ce["lines"] if line["label"] == "language model")["y"] == [1.63] * 4
    links = next(block for block in sections["jobs"] if block["type"] == "links")["items"]
    assert [link["href"] for link in links] == [
        "0/report.html",
        "1/report.html",
        "2/report.html",
        "3/report.html",
        "4/",
    ]
    assert "`connectivity.C` must be >= 0" in links[4]["note"]
