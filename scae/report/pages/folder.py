"""Where pages and their data lie.

    DIR/report.html, DIR/features.html     a page each
    DIR/pages/assets/                      what draws them, the same for all
    DIR/pages/data-HASH/                   what they show, named by its content

A page names the one folder of data that belongs to it and is replaced last, in one step: whoever opens it sees the old
pages with the old data or the new ones with the new. Data that no page names any more is removed afterwards.
"""

import hashlib
import html
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from scae.core.whole_files import write_text

ASSETS = Path(__file__).parent / "assets"
PAGES = "pages"


def copy_assets(to: Path) -> Path:
    """Everything that pages load and that is not data; files that are there already stay as they are."""
    to.mkdir(parents=True, exist_ok=True)
    for asset in sorted(ASSETS.iterdir()):
        if asset.is_file() and asset.suffix != ".html":
            text, target = asset.read_text(encoding="utf-8"), to / asset.name
            if not target.is_file() or target.read_text(encoding="utf-8") != text:
                write_text(target, text)
    return to


def page(template: str, fields: Mapping[str, str]) -> str:
    """`assets/<template>` with every `{{name}}` replaced by a text, escaped."""
    text = (ASSETS / template).read_text(encoding="utf-8")
    for name, value in fields.items():
        text = text.replace("{{" + name + "}}", html.escape(value))
    return text


def write_data(directory: Path, files: Iterable[tuple[str, str]]) -> str:
    """Write files of data, named relative to their folder, one after the other; returns that folder relative to
    `directory`."""
    root = directory / PAGES
    temporary = root / f".data-{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    digest = hashlib.sha256()
    try:
        for name, text in files:
            content = text.encode("utf-8", "surrogatepass")
            digest.update(name.encode() + b"\0" + content + b"\0")
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        folder = root / f"data-{digest.hexdigest()[:12]}"
        if folder.is_dir():
            shutil.rmtree(folder)  # the same content, unless somebody has damaged it
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return f"{PAGES}/{folder.name}"


def remove_stale(directory: Path, kept: str) -> None:
    """Remove folders of data other than `kept`, also what writers that were killed have left."""
    for folder in (directory / PAGES).glob("*data-*"):
        if folder.name != Path(kept).name and folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
