"""How long it takes to write the pages of many features, and until somebody who opens them sees them.

The analysis is made up (`tests/report/fake_analysis.py`), the browser a headless Chromium that has opened nothing
before: a window each time, until the page says that it is drawn.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.measure import Samples
from benchmarks.rows import Row, say
from scae.report.files import read_job
from scae.report.pages import write_circuit_page, write_run_pages

TESTS = Path(__file__).parents[1] / "tests" / "report"
SITES = tuple(f"{layer}.{kind}" for layer in range(4) for kind in ("attn", "mlp"))
SIZES = {"features": 10_000, "windows": 256, "nodes": 2_000, "rounds": 5}
QUICK = {"features": 160, "windows": 8, "nodes": 100, "rounds": 1}
OPEN_S, WRITE_S, HOVER_S = 2.0, 30.0, 0.05
READY = "document.body.dataset.ready !== undefined"
DRAWN = "document.querySelectorAll('g.node').length > 0"


def run(*, quick: bool, device: str, sizes: dict[str, int] | None = None) -> list[Row]:
    """A row for writing, one a page that is opened, and one for pointing at nodes of a large circuit."""
    sizes = sizes or (QUICK if quick else SIZES)
    if str(TESTS) not in sys.path:  # what is made up there is made up once
        sys.path.insert(0, str(TESTS))
    browsing = import_module("browsing")
    with tempfile.TemporaryDirectory() as folder:
        directory = _run_directory(Path(folder), sizes)
        seconds = _seconds(lambda: write_run_pages(read_job(directory), "python -m scae.report"))
        size = sum(path.stat().st_size for path in (directory / "pages").rglob("*") if path.is_file())
        rows = [_row("write the pages", [seconds], WRITE_S, sizes | {"MB": round(size / 2**20, 1)})]
        circuit = _circuit(directory / "circuits" / "large", sizes)
        if reason := browsing.why_none():
            say(reason)
            return rows
        middle = sizes["features"] // len(SITES) // 2
        with browsing.chromium() as browser:
            for name, path, fragment, ready in (
                ("open the report", directory / "report.html", "", READY),
                ("open the features of a site", directory / "features.html", "", READY),
                ("open the features of all sites", directory / "features.html", "#*", READY),
                ("open one feature", directory / "features.html", f"#2.mlp/{middle}", READY),
                ("open a circuit", circuit, "", DRAWN),
            ):
                times = [_opened(browsing, browser, path, fragment, ready) for _ in range(sizes["rounds"])]
                rows.append(_row(name, times, OPEN_S, sizes))
            rows.append(_row("point at a node of it", _pointed(browsing, browser, circuit), HOVER_S, sizes))
    return rows


def _row(name: str, times: list[float], most: float, sizes: dict[str, Any]) -> Row:
    median = Samples(times).median
    return Row(
        name=name,
        ratio=median / most,
        ratio_is="seconds / the most it may take",
        ours_s=median,
        baseline_s=most,
        ours_bytes=None,
        baseline_bytes=None,
        sizes=sizes,
        goal="<= 1",
        extra={"runs": len(times)},
    )


def _run_directory(folder: Path, sizes: dict[str, int]) -> Path:
    fake = import_module("fake_analysis")
    each = sizes["features"] // len(SITES)
    fake.write_analysis(folder / "analyze-abc", sites=SITES, features=each, windows=sizes["windows"])
    directory = folder / "run"
    directory.mkdir()
    (directory / "metrics.json").write_text('{"lm/ce": 2.0, "plain/ce": 2.5}')
    (directory / "run.json").write_text('{"stages": {"analyze": "../analyze-abc"}}')
    return directory


def _circuit(folder: Path, sizes: dict[str, int]) -> Path:
    """About as many nodes, ten edges each, all of them shown."""
    graphs = import_module("graphs")
    tokens = max(4, round(sizes["nodes"] / 40))
    graph = graphs.make_graph(layers=8, tokens=tokens, per_cell=2, inputs=12)
    return write_circuit_page(graphs.put_graph(folder, graph))


def _opened(browsing: Any, browser: Any, path: Path, fragment: str, ready: str) -> float:
    """Seconds until the page is drawn."""
    window = browsing.Window(browser, width=1440, height=900)

    def look() -> None:
        window.open(path, fragment).wait_for_function(ready)

    seconds = _seconds(look)
    window.check()
    window.context.close()
    return seconds


def _pointed(browsing: Any, browser: Any, circuit: Path) -> list[float]:
    """Seconds of the page's own work at each of 50 moves from node to node, all nodes and edges on show."""
    window = browsing.Window(browser, width=1440, height=900)
    page = window.open(circuit, "#nodes=1&edges=1")
    page.wait_for_function(DRAWN)
    times = page.evaluate("""() => view.graph.nodes.filter(isFeature).slice(0, 50).map((node) => {
      const start = performance.now();
      view.point(node);
      document.body.getBoundingClientRect();
      return (performance.now() - start) / 1000;
    })""")
    window.context.close()
    return [float(seconds) for seconds in times]


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
