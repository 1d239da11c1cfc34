"""A circuit on disk: `graph.json` for whoever reads such graphs, `graph.js` for the page, and the page.

The page opens from disk, where a script may load another and no data: `graph.js` hands the same JSON to it.
"""

import json
import re
import zlib
from pathlib import Path
from typing import Any

from scae.core.whole_files import write_text
from scae.report.pages import write_circuit_page

LONGEST = 48


def write(content: dict[str, Any], folder: Path) -> Path:
    """A graph as JSON, with everything that shows it, into a folder, which it returns."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, allow_nan=False)
    write_text(folder / "graph.json", text)
    write_text(folder / "graph.js", f'scae_data("graph", {text.replace("<", chr(92) + "u003c")});\n')
    write_circuit_page(folder)
    return folder


def slug_of(text: str) -> str:
    """A name of a folder, which another text does not get: its words, and where they are not all a sum of it."""
    words = "-".join(re.findall(r"[a-z0-9]+", text.lower()))
    if words.replace("-", " ") == text and len(words) <= LONGEST:
        return words
    return f"{words[:LONGEST].strip('-')}-{zlib.crc32(text.encode()) & 0xFFFF:04x}".lstrip("-")


def check_slug(slug: str) -> str:
    """Raises ValueError where it is no name of a folder."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", slug):
        raise ValueError(f"slug {slug!r}: letters, digits and . _ - name a folder, the first a letter or a digit")
    return slug
