"""The page of a circuit as somebody sees it: in a headless Chromium, opened from disk."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browsing import HARM, Window
from graphs import make_global, make_graph, put_graph

from scae.report.pages.circuit_page import write_circuit_page


@pytest.fixture(scope="module")
def graph() -> dict[str, Any]:
    return make_graph(layers=3, tokens=8, per_cell=2, inputs=8)


@pytest.fixture
def circuit(tmp_path: Path, graph: dict[str, Any]) -> Path:
    return write_circuit_page(put_graph(tmp_path / "run" / "circuits" / "captain", graph))


MINUS = "\N{MINUS SIGN}"


def edges_of(graph: dict[str, Any], node: str, end: str) -> list[dict[str, Any]]:
    """By size, as the panel shows them."""
    return sorted((link for link in graph["links"] if link[end] == node), key=lambda link: -abs(link["weight"]))


def busy(graph: dict[str, Any]) -> str:
    """A feature that is read from and reads."""
    features = [node["node_id"] for node in graph["nodes"] if node["feature_type"] == "cross layer transcoder"]
    return max(features, key=lambda node: min(len(edges_of(graph, node, end)) for end in ("source", "target")))


def near(page: Any) -> set[str]:
    """The ids of the nodes that stand out."""
    return set(page.evaluate("[...document.querySelectorAll('g.node.near')].map((e) => e.dataset.id)"))


def node(page: Any, node_id: str) -> Any:
    """The mark of a node."""
    return page.locator(f"g.node[data-id='{node_id}']")


def values(page: Any, section: str) -> list[float]:
    """The numbers of a list in the panel."""
    texts = page.locator(f"section[aria-label='{section}'] .line-value").all_inner_texts()
    return [float(text.replace(MINUS, "-")) for text in texts]


def test_every_node_stands_in_the_row_of_its_site_and_the_column_of_its_token(
    window: Callable[..., Window], circuit: Path, graph: dict[str, Any]
) -> None:
    page = window().open(circuit)
    assert page.locator("g.node").count() == len(graph["nodes"])
    assert page.locator(".sites div").all_inner_texts() == ["tokens", *graph["metadata"]["scae"]["sites"], "logits"]
    heads = page.locator(".heads .token-text").all_inner_texts()
    assert [head.strip() for head in heads] == [token.strip() for token in graph["metadata"]["prompt_tokens"]]
    misplaced = page.evaluate("""() => {
      const box = (selector, i) => document.querySelectorAll(selector)[i].getBoundingClientRect();
      const inside = (at, from, to) => at > from && at < to;
      return view.graph.nodes.filter((node) => {
        const own = view.nodes.box(node), row = box(".sites div", node.row), head = box(".heads > div", node.column);
        const x = own.left + own.width / 2, y = own.top + own.height / 2;
        return !inside(y, row.top, row.bottom) || !inside(x, head.left, head.right);
      }).map((node) => node.id);
    }""")
    assert misplaced == []
    taken = page.evaluate("view.graph.nodes.map((node) => `${node.x} ${node.y}`)")
    assert len(set(taken)) == len(taken), "two nodes stand on each other"


def test_pointing_at_a_node_lights_what_it_reads_and_writes(
    window: Callable[..., Window], circuit: Path, graph: dict[str, Any]
) -> None:
    page = window().open(circuit)
    drawn = """() => {
      const canvas = document.querySelector("canvas.focus");
      return canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean);
    }"""
    assert not page.evaluate(drawn)
    name = busy(graph)
    node(page, name).scroll_into_view_if_needed()
    node(page, name).hover()
    inputs = {link["source"] for link in edges_of(graph, name, "target")}
    outputs = {link["target"] for link in edges_of(graph, name, "source")}
    assert near(page) == {name} | inputs | outputs
    assert page.evaluate(drawn)
    own = next(one["scae"] for one in graph["nodes"] if one["node_id"] == name)
    tip = page.locator(".tip")
    assert f"{own['site']}/{own['feature']}" in tip.inner_text()
    assert "✓" in tip.locator("dt:text('sum of inputs') + dd").inner_text()
    page.mouse.move(2, 2)
    assert near(page) == set()
    assert not tip.is_visible()
    assert not page.evaluate(drawn)


def test_a_click_shows_all_edges_by_size_and_going_back_comes_back(
    window: Callable[..., Window], circuit: Path, graph: dict[str, Any]
) -> None:
    page = window().open(circuit)
    name = busy(graph)
    node(page, name).click()
    for section, end in (("Inputs", "target"), ("Outputs", "source")):
        expected = [link["weight"] for link in edges_of(graph, name, end)][:40]
        assert values(page, section) == pytest.approx(expected, rel=6e-3)
    first = page.url
    page.locator("section[aria-label='Inputs'] .line").first.click()
    there = page.evaluate("view.choices.selected.id")
    assert there == edges_of(graph, name, "target")[0]["source"]
    page.go_back()
    page.wait_for_function("(id) => view.choices.selected?.id === id", arg=name)
    assert page.url == first
    page.keyboard.press("Escape")
    assert page.evaluate("view.choices.selected") is None


def test_what_was_pruned_from_the_file_is_said(window: Callable[..., Window], tmp_path: Path) -> None:
    cut = make_graph()
    name = busy(cut)
    gone = edges_of(cut, name, "target")[0]
    cut["links"].remove(gone)
    page = window().open(write_circuit_page(put_graph(tmp_path / "cut", cut)), f"#at={name}")
    said = page.locator(".panel dt:text('sum of inputs') + dd").inner_text()
    assert said.endswith("in pruned edges")
    left = float(said.split(", ")[1].split()[0].replace(MINUS, "-"))
    assert left == pytest.approx(gone["weight"], rel=6e-3)


def test_from_a_circuit_to_a_feature_and_back(
    window: Callable[..., Window], tmp_path: Path, graph: dict[str, Any]
) -> None:
    folder = put_graph(tmp_path / "run" / "circuits" / "captain", graph)
    (tmp_path / "run" / "features.html").write_text("<!doctype html><title>a feature</title>")
    page = window().open(write_circuit_page(folder))
    name = busy(graph)
    node(page, name).click()
    page.click(".feature-link")
    own = next(one["scae"] for one in graph["nodes"] if one["node_id"] == name)
    assert page.url.endswith(f"/run/features.html#{own['site']}/{own['feature']}")
    page.go_back()
    assert page.evaluate("view.choices.selected.id") == name


def test_pins_and_groups_are_in_the_address(
    window: Callable[..., Window], circuit: Path, graph: dict[str, Any]
) -> None:
    page = window().open(circuit)
    name = busy(graph)
    pinned = [name, *(link["source"] for link in edges_of(graph, name, "target")[:3])]
    for one in pinned:
        node(page, one).click(modifiers=["Shift"])
    for one in range(1, 3):
        page.locator(".pinned-nodes input[type=checkbox]").nth(one).check()
    page.fill(".group-name", "the ~ captain's & co")
    page.click(".grouping button")
    again = window().open(circuit, "#" + page.url.partition("#")[2])
    assert again.evaluate("[...view.choices.pinned].map((node) => node.id)") == pinned
    group = again.evaluate("view.choices.groups.map(({name, nodes}) => [name, ...nodes.map((node) => node.id)])")
    assert group == [["the - captain's & co", *pinned[1:3]]]
    assert again.locator("g.node.pinned").count() == len(pinned)
    again.click("text=Unpin all")
    assert again.locator(".pinned").is_hidden()
    again.reload()
    assert again.evaluate("view.choices.pinned.size") == 0


def test_the_pinned_circuit_is_saved(
    window: Callable[..., Window], circuit: Path, graph: dict[str, Any], tmp_path: Path
) -> None:
    name = busy(graph)
    sources = [link["source"] for link in edges_of(graph, name, "target")[:4]]
    address = f"#at={name}&pins={'~'.join([name, *sources])}&group=both~{sources[0]}~{sources[1]}"
    page = window().open(circuit, address)
    saved = {}
    for kind in ("JSON", "SVG", "PNG"):
        with page.expect_download() as download:
            page.click(f".pinned-head button:text-is('{kind}')")
        saved[kind] = tmp_path / download.value.suggested_filename
        download.value.save_as(saved[kind])
    assert [path.name for path in saved.values()] == [f"captain-pinned.{kind}" for kind in ("json", "svg", "png")]
    kept = json.loads(saved["JSON"].read_text())
    inside = {name, *sources}
    assert {one["node_id"] for one in kept["nodes"]} == inside
    assert kept["links"] == [link for link in graph["links"] if {link["source"], link["target"]} <= inside]
    assert kept["qParams"]["supernodes"] == [["both", *sources[:2]]]
    assert (kept["qParams"]["clickedId"], kept["qParams"]["pinnedIds"]) == (name, [name, *sources])
    assert kept["metadata"]["prompt_tokens"] == graph["metadata"]["prompt_tokens"]
    drawing = saved["SVG"].read_text()
    assert "both (2)" in drawing
    sum_of_both = sum(link["weight"] for link in edges_of(graph, name, "target")[:2])
    shown = page.evaluate("(weight) => signed(weight)", sum_of_both)
    assert shown in drawing, "an arrow from a group is the sum of its edges"
    assert saved["PNG"].read_bytes().startswith(b"\x89PNG")
    reopened = window().open(write_circuit_page(put_graph(tmp_path / "reopened", kept)))
    assert reopened.evaluate("view.choices.pinned.size") == len(inside), "a saved circuit opens as it was"


def test_thresholds_keep_the_fewest_that_hold_a_share(window: Callable[..., Window], circuit: Path) -> None:
    page = window().open(circuit)
    counts = []
    for share in (1.0, 0.8, 0.4):
        page.locator("#nodes").fill(str(share))
        held, least, dropped = page.evaluate("""() => {
          const rest = view.graph.nodes.filter((node) => !view.visible.has(node));
          const sum = (nodes) => nodes.reduce((total, node) => total + node.influence, 0);
          const free = [...view.visible].filter((node) => node.kind !== "logit");
          const least = Math.min(...free.map((node) => node.influence));
          const held = sum([...view.visible]) / sum(view.graph.nodes);
          return [held, least, Math.max(0, ...rest.map((node) => node.influence))];
        }""")
        assert held >= share - 1e-9
        assert dropped <= least
        assert page.locator("g.node.logit").count() == 5
        counts.append(page.locator("g.node").count())
    assert counts[0] > counts[1] > counts[2]
    assert "nodes=0.4" in page.url
    page.locator("#nodes").fill("1")
    before = page.evaluate("view.kept.size")
    page.locator("#edges").fill("0.5")
    assert page.evaluate("view.kept.size") < before


def test_influence_flows_back_along_shares(window: Callable[..., Window], circuit: Path) -> None:
    """A logit of probability 1 reads a (3) and b (-1); a reads b (1) and a bias (9), which takes no influence."""
    page = window().open(circuit)
    kinds = {"a": "cross layer transcoder", "b": "cross layer transcoder", "c": "bias", "top": "logit"}
    nodes = [
        {"node_id": name, "feature_type": kind, "layer": "0", "ctx_idx": 0, "token_prob": 1.0, "feature": 0}
        for name, kind in kinds.items()
    ]
    links = [("a", "top", 3.0), ("b", "top", -1.0), ("b", "a", 1.0), ("c", "a", 9.0)]
    file = {
        "metadata": {"prompt_tokens": ["x"]},
        "nodes": nodes,
        "links": [dict(zip(("source", "target", "weight"), link, strict=True)) for link in links],
    }
    found = page.evaluate("(file) => readGraph(file).nodes.map((node) => [node.id, node.influence])", file)
    influence = dict(found)
    assert influence["a"] == pytest.approx(0.75)
    assert influence["b"] == pytest.approx(0.25 + 0.75)
    assert page.evaluate("(file) => readGraph(file).edges.map((edge) => edge.share)", file) == [0.75, 0.25, 0.1, 0.9]


def test_nodes_are_found_by_what_is_written_of_them(window: Callable[..., Window], circuit: Path) -> None:
    page = window().open(circuit)
    page.keyboard.press("/")
    page.keyboard.type("daughter logit")
    assert page.locator(".results .line").count() == 1
    assert page.locator("g.node.found").count() == 1
    page.keyboard.press("Enter")
    assert page.evaluate("view.choices.selected.label") == 'Output " daughter" (p=0.520)'
    assert page.locator(".results").is_hidden()
    page.fill("#search", "no such node anywhere")
    assert page.locator(".results").inner_text() == "no node"


def test_the_keyboard_walks_selects_and_pins(window: Callable[..., Window], circuit: Path) -> None:
    page = window().open(circuit)
    here = "view.nodes.nodeOf.get(document.activeElement)"
    page.evaluate("view.nodes.focus(view.graph.nodes.find((node) => node.kind === 'token' && node.column === 7))")
    page.keyboard.press("ArrowUp")
    assert page.evaluate(f"[{here}.row, {here}.column]") == [1, 7]
    assert page.locator(".tip").is_visible()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(f"{here}.row") == 0
    page.keyboard.press("Enter")
    assert page.evaluate(f"view.choices.selected === {here}")
    page.keyboard.press("p")
    assert page.evaluate(f"view.choices.pinned.has({here})")
    page.keyboard.press("Escape")
    assert page.evaluate("view.choices.selected") is None
    assert page.locator("g.node[tabindex='0']").count() == 1


def test_text_of_a_graph_does_nothing(window: Callable[..., Window], tmp_path: Path) -> None:
    bad = make_graph(layers=2, tokens=5)
    bad["metadata"] |= {"prompt": HARM, "prompt_tokens": [HARM] * 5, "slug": HARM}
    for one in bad["nodes"]:
        one["clerp"] = HARM
        if "feature" in one.get("scae", {}):
            one["scae"]["promoted"] = [HARM]
    run = tmp_path / "run"
    (run / "pages").mkdir(parents=True)
    name = busy(bad)
    own = next(one["scae"] for one in bad["nodes"] if one["node_id"] == name)
    labels = {"labels": {f"{own['site']}/{own['feature']}": {"label": f"label {HARM}"}}}
    (run / "pages" / "labels.js").write_text(f'scae_data("labels", {json.dumps(labels)});')
    folder = put_graph(run / "circuits" / "bad", bad)
    page = window().open(write_circuit_page(folder), f"#at={name}&pins={name}&group={HARM.replace('&', '')}~{name}")
    assert page.locator(".panel h2").inner_text().startswith("label <script>"), "labels stand before what the file says"
    node(page, name).hover()
    page.fill("#search", "script")
    page.locator(".results .line").first.click()
    assert page.evaluate("window.harmed") is None
    assert page.locator("main img, main script, main b").count() == 0


def test_the_connections_of_one_feature_stand_in_one_column(window: Callable[..., Window], tmp_path: Path) -> None:
    graph = make_global()
    page = window().open(write_circuit_page(put_graph(tmp_path / "circuits" / "feature", graph)))
    assert page.locator("g.node").count() == len(graph["nodes"])
    assert page.locator(".heads > div").count() == 0
    assert page.locator(".panel h2").inner_text() == "Connections of a feature"
    root = page.evaluate("view.graph.nodes.find((node) => node.place === view.graph.file.metadata.prompt).influence")
    assert root == 1
    assert page.evaluate("view.graph.nodes.every((node) => node.influence > 0)"), "what it writes to counts as well"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)], ids=["desk", "phone"])
def test_a_circuit_is_readable(
    window: Callable[..., Window], tmp_path: Path, scheme: str, width: int, height: int
) -> None:
    """Of many sites and tokens: the graph scrolls in its pane, the page does not scroll sideways."""
    graph = make_graph(layers=8, tokens=24, per_cell=2, inputs=8)
    name = busy(graph)
    circuit = write_circuit_page(put_graph(tmp_path / "circuits" / "large", graph))
    page = window(scheme=scheme, width=width, height=height).open(circuit, f"#at={name}&pins={name}")
    pane = page.locator(".pane")
    assert pane.evaluate("(pane) => pane.scrollWidth > pane.clientWidth")
    assert node(page, name).is_visible()
    colours = page.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
    light = [sum(int(part) for part in colour[4:-1].split(",")) for colour in colours]
    assert (light[0] > light[1]) == (scheme == "light")
    assert page.screenshot(path=tmp_path / f"{scheme}-{width}.png", full_page=True)
