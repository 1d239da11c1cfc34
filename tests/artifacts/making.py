"""What artifacts are made by here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any


def writer(content: str = "1", calls: list[Path] | None = None) -> Callable[[Path], dict[str, Any]]:
    def make(folder: Path) -> dict[str, Any]:
        if calls is not None:
            calls.append(folder)
        (folder / "file").write_text(content)
        return {"tokens": 7}

    return make
