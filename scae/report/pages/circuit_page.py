"""`circuit.html`: the page on which the graph of a prompt, or of one feature, is looked at.

It stands beside the `graph.js` that it shows, `scae_data("graph", {...})` in the attribution-graph schema, with what it
needs below `assets/`, and opens from disk. In `circuits/<slug>/` of a run directory it links the pages of the run that
are there when it is written: write it again where these came later.
"""

import os
from html import escape
from pathlib import Path

from scae.core.whole_files import write_text
from scae.report.files import ReportError
from scae.report.pages.circuits import CIRCUITS
from scae.report.pages.folder import ASSETS

GRAPH, PAGE = "graph.js", "circuit.html"
SHARED = ("style.css", "data.js", "dom.js")
PLACES = {"report": "report.html", "features": "features.html", "labels": "pages/labels.js"}
"""What the page links or loads, from the run directory, by the attribute of its body that says where."""


def write_circuit_page(folder: Path) -> Path:
    """Put the page and its assets beside the `graph.js` of this folder; returns the page."""
    if not (folder / GRAPH).is_file():
        raise ReportError(f"'{folder}' holds no {GRAPH} to show; write the graph first: python -m scae.circuit")
    target = folder / ASSETS.name
    target.mkdir(exist_ok=True)
    for asset in ASSETS.iterdir():
        if asset.name in SHARED or (asset.name.startswith("circuit") and asset.name != PAGE):
            write_text(target / asset.name, asset.read_text(encoding="utf-8"))
    page = (ASSETS / PAGE).read_text(encoding="utf-8")
    for name, address in _addresses(folder).items():
        page = page.replace(f'data-{name}=""', f'data-{name}="{escape(address)}"')
    return write_text(folder / PAGE, page)


def write_circuit_pages(run_dir: Path) -> list[Path]:
    """The pages of all circuits of a run anew, as after its other pages and its labels have come; returns them."""
    return [write_circuit_page(path.parent) for path in sorted((run_dir / CIRCUITS).glob(f"*/{GRAPH}"))]


def _addresses(folder: Path) -> dict[str, str]:
    """Of the pages of the run around this folder, as far as they are there."""
    run = folder.resolve().parents[1]
    there = {name: run / place for name, place in PLACES.items() if (run / place).is_file()}
    return {name: Path(os.path.relpath(path, folder.resolve())).as_posix() for name, path in there.items()}
