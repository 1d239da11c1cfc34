"""The pages of a run as somebody sees them: in a headless Chromium, opened from disk."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browsing import HARM, Window
from fake_analysis import NASTY, write_analysis
from graphs import make_graph, put_graph

from scae.report.files import read_job
from scae.report.pages import write_circuit_page, write_run_pages

FEATURES, SHARD = 300, 256
COLOURS = "['backgroundColor', 'color'].map((name) => getComputedStyle(document.body)[name])"


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_analysis(tmp_path_factory.mktemp("artifacts") / "analyze-abc", features=FEATURES, windows=8)


@pytest.fixture
def run(tmp_path: Path, analysis: Path, put: Callable[..., Path], metrics: dict[str, float]) -> Path:
    """A run with an analysis, labels that mean no good, and a circuit."""
    folder = put(tmp_path / "run", metrics)
    (folder / "run.json").write_text(json.dumps({"stages": {"analyze": str(analysis)}}))
    labels = {"format": 1, "labels": {"1.mlp/17": {"label": f"seventeen {HARM}"}}}
    (folder / "labels.json").write_text(json.dumps(labels))
    (folder / "pages").mkdir()
    (folder / "pages" / "labels.js").write_text(f'scae_data("labels", {json.dumps(labels)});')
    circuit = put_graph(folder / "circuits" / "captain", _graph())
    write_circuit_page(circuit)
    write_run_pages(read_job(folder), "python -m scae.report DIR")
    write_circuit_page(circuit)
    return folder


def _graph() -> dict[str, Any]:
    """With 1.mlp/17 at the last token."""
    graph = make_graph(layers=2, tokens=6, per_cell=2, inputs=6)
    last = max(node["ctx_idx"] for node in graph["nodes"])
    features = [node for node in graph["nodes"] if node["feature_type"] == "cross layer transcoder"]
    node = next(node for node in features if (node["layer"], node["ctx_idx"]) == ("1", last))
    node["scae"]["feature"] = 17
    graph["seventeen"] = node["node_id"]
    return graph


def ready(page: Any, fragment: str) -> None:
    """Waits until the page shows what the address names, and every link to a feature says the feature's name."""
    page.wait_for_function(
        "(fragment) => document.body.dataset.ready === fragment && !document.querySelector('a.ref .name:empty')",
        arg=fragment,
    )


def test_from_the_report_to_a_feature_to_another_and_back(window: Callable[..., Window], run: Path) -> None:
    page = window().open(run / "report.html")
    page.click(".bar nav a:text('Features')")
    page.locator(".side select").first.select_option(label="1.mlp")
    page.locator(".list-row[href='#1.mlp/17']").click()
    ready(page, "#1.mlp/17")
    assert "seventeen <script>" in page.locator("main h1").inner_text()
    before = page.locator("main").inner_text()
    link = page.locator(".edges a.ref").first
    there = link.get_attribute("href")
    link.click()
    ready(page, there)
    assert page.locator("main").inner_text() != before
    page.go_back()
    ready(page, "#1.mlp/17")
    assert page.locator("main").inner_text() == before
    page.click(".bar .name")
    page.wait_for_selector("main h1:text('Run run')")


def test_a_row_that_is_pressed_while_the_list_is_drawn_again_is_followed(
    window: Callable[..., Window], run: Path
) -> None:
    page = window().open(run / "features.html", "#1.mlp")
    ready(page, "#1.mlp")
    page.hover(".list-row[href='#1.mlp/5']")
    page.mouse.down()
    page.evaluate("list.draw()")
    page.mouse.up()
    ready(page, "#1.mlp/5")
    assert page.locator(".list-row[aria-current]").get_attribute("href") == "#1.mlp/5"


def test_from_the_report_to_a_circuit_to_a_feature_and_back(window: Callable[..., Window], run: Path) -> None:
    page = window().open(run / "report.html")
    page.click("a:text('Circuit captain')")
    assert page.url.endswith("/run/circuits/captain/circuit.html")
    page.locator(f"g.node[data-id='{_graph()['seventeen']}']").click()
    assert page.locator(".panel h2").inner_text().startswith("seventeen"), "the label of the run"
    address = page.url
    page.click(".feature-link")
    ready(page, "#1.mlp/17")
    page.go_back()
    page.wait_for_selector("g.node.selected")
    assert page.url == address
    page.click(".pages a:text('Report')")
    page.wait_for_selector("main h1:text('Run run')")


def test_a_feature_loads_its_own_shard(window: Callable[..., Window], run: Path) -> None:
    opened = window()
    page = opened.open(run / "features.html", f"#0.mlp/{SHARD + 3}")
    ready(page, f"#0.mlp/{SHARD + 3}")
    page.wait_for_load_state("networkidle")
    shards = [name for name in opened.scripts() if name.startswith("site") and not name.endswith("/index.js")]
    assert shards == ["site1/1.js"]
    page.keyboard.press("j")
    ready(page, f"#0.mlp/{SHARD + 4}")
    assert [name for name in opened.scripts() if name == "site1/1.js"] == ["site1/1.js"], "a shard is loaded once"


def test_a_long_list_is_drawn_as_far_as_one_sees_it(window: Callable[..., Window], run: Path) -> None:
    page = window().open(run / "features.html", "#*")
    ready(page, "#*")
    assert f"{4 * FEATURES:,} features" in page.locator(".side .count").inner_text()
    assert 0 < page.locator(".list-box .list-row").count() < 100
    page.fill(".side input[type=search]", "seventeen")
    assert page.locator(".list-box .list-row").count() == 1


def test_a_corpus_does_nothing(window: Callable[..., Window], run: Path) -> None:
    """The vocabulary of the made-up analysis is full of markup."""
    assert any("<script>" in text for text in NASTY)
    page = window().open(run / "features.html", "#1.mlp/17")
    ready(page, "#1.mlp/17")
    page.fill(".side input[type=search]", "script")
    assert "alert(1)" in page.locator(".list-box").inner_text() + page.locator("main").inner_text()
    assert page.evaluate("window.harmed") is None
    assert page.locator("main script, main img, .side script, .side img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)], ids=["desk", "phone"])
def test_pages_are_readable(
    window: Callable[..., Window], run: Path, tmp_path: Path, scheme: str, width: int, height: int
) -> None:
    """None is wider than its window; both schemes are their own."""
    for name, fragment in (("report", ""), ("features", ""), ("features", "#1.mlp/17")):
        opened = window(scheme=scheme, width=width, height=height)
        page = opened.open(run / f"{name}.html", fragment)
        page.wait_for_selector("body[data-ready]")
        ground, ink = page.evaluate(COLOURS)
        light = [sum(int(part) for part in colour[4:-1].split(",")) for colour in (ground, ink)]
        assert (light[0] > light[1]) == (scheme == "light")
        picture = tmp_path / f"{name}{'-one' if fragment else ''}-{scheme}-{width}.png"
        assert page.screenshot(path=picture, full_page=True)


def test_a_run_moved_elsewhere_still_opens(window: Callable[..., Window], run: Path, tmp_path: Path) -> None:
    """Everything lies below the directory of the run, and addresses are relative."""
    moved = tmp_path / "somewhere else & über"
    shutil.move(run, moved)
    page = window().open(moved / "features.html", "#1.mlp/17")
    ready(page, "#1.mlp/17")
    page = window().open(moved / "circuits" / "captain" / "circuit.html")
    assert page.locator("g.node").count() > 0
