"""Circuits of prompts that were drawn for a run: `circuits/<slug>/circuit.html` below its directory."""

from pathlib import Path
from urllib.parse import quote

from scae.report.files import ReportError, natural, read_json
from scae.report.pages import blocks
from scae.report.pages.blocks import Block

CIRCUITS = "circuits"


def circuit_links(run_dir: Path) -> list[Block]:
    """A link to each, with its prompt where the graph tells it; nothing where there are none."""
    found = []
    for path in sorted((run_dir / CIRCUITS).glob("*/circuit.html"), key=lambda path: natural(path.parent.name)):
        slug = path.parent.name
        prompt = _prompt(path.with_name("graph.json"))
        found.append((f"Circuit {slug}", f"{CIRCUITS}/{quote(slug)}/circuit.html", prompt))
    block = blocks.links(found)
    return [] if block is None else [block]


def _prompt(graph: Path) -> str:
    try:
        metadata = read_json(graph).get("metadata")
    except ReportError:
        return ""  # a page that is there is worth its link, whatever lies beside it
    return str(metadata.get("prompt", "")) if isinstance(metadata, dict) else ""
