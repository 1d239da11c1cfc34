"""The files of the page of a circuit; `test_browser.py` looks at it."""

import re
from pathlib import Path

import pytest
from graphs import make_graph, put_graph

from scae.report import ReportError
from scae.report.pages.circuit_page import write_circuit_page, write_circuit_pages


def test_the_page_loads_nothing_but_what_lies_beside_it(tmp_path: Path) -> None:
    folder = put_graph(tmp_path / "run" / "circuits" / "captain", make_graph())
    page = write_circuit_page(folder)
    assert page == folder / "circuit.html"
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.read_text())
    loaded = [address for address in loaded if not address.startswith("data:")]
    assert "graph.js" in loaded
    assert all((folder / address).is_file() for address in loaded)
    assets = {f"assets/{path.name}" for path in (folder / "assets").iterdir()}
    assert assets == set(loaded) - {"graph.js"}, "something is copied that the page does not load"


def test_assets_name_no_address_of_a_network(tmp_path: Path) -> None:
    folder = put_graph(tmp_path / "circuit", make_graph())
    page = write_circuit_page(folder)
    for path in (page, *(folder / "assets").iterdir()):
        found = re.findall(r"https?://[^\s\"')]+", path.read_text())
        assert set(found) <= {"http://www.w3.org/2000/svg"}, path  # the name of SVG, which nobody asks for


def test_pages_of_the_run_are_linked_where_they_are(tmp_path: Path) -> None:
    run = tmp_path / "run"
    folder = put_graph(run / "circuits" / "captain", make_graph())
    assert 'data-features="" data-labels=""' in write_circuit_page(folder).read_text()
    (run / "pages").mkdir()
    for name in ("report.html", "features.html", "pages/labels.js"):
        (run / name).touch()
    body = write_circuit_page(folder).read_text()
    places = ("../../report.html", "../../features.html", "../../pages/labels.js")
    assert 'data-report="{}" data-features="{}" data-labels="{}"'.format(*places) in body


def test_all_circuits_of_a_run_are_written_anew(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for slug in ("one", "other"):
        write_circuit_page(put_graph(run / "circuits" / slug, make_graph(layers=1, tokens=3)))
    (run / "circuits" / "empty").mkdir()
    (run / "features.html").touch()
    pages = write_circuit_pages(run)
    assert [page.parent.name for page in pages] == ["one", "other"]
    assert all('data-features="../../features.html"' in page.read_text() for page in pages)
    assert write_circuit_pages(tmp_path / "no run") == []


def test_a_folder_without_a_graph_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"holds no graph\.js to show"):
        write_circuit_page(tmp_path)
    assert list(tmp_path.iterdir()) == []
