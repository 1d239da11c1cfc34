"""What `report.html` is made of: sections of blocks, as plain data that `assets/report.js` draws.

In texts, what stands between backticks is code. A number that is missing is None.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scae.arms import Arm
from scae.report.arms import RESULTS
from scae.report.grid import Grid

Block = dict[str, Any]
Number = float | int


def section(name: str, title: str, blocks: Iterable[Block | None]) -> Block | None:
    """None where there is nothing to show. name: its address on the page."""
    kept = [block for block in blocks if block is not None]
    return {"id": name, "title": title, "blocks": kept} if kept else None


def text(content: str, *, faint: bool = False) -> Block:
    return {"type": "text", "text": content, "faint": faint}


def heading(content: str) -> Block:
    return {"type": "heading", "text": content}


def items(lines: Iterable[str], *, notice: bool = False) -> Block | None:
    """A list; notice: nobody should overlook it."""
    lines = list(lines)
    return {"type": "items", "items": lines, "notice": notice} if lines else None


def links(found: Iterable[tuple[str, str, str]]) -> Block | None:
    """(text, address or "", note) of each."""
    listed = [{"text": name, "href": href, "note": note} for name, href, note in found]
    return {"type": "links", "items": listed} if listed else None


def facts(pairs: Iterable[tuple[str, str, str]]) -> Block | None:
    """The few numbers that come first: (name, value, note) of each."""
    listed = [{"name": name, "value": value, "note": note} for name, value, note in pairs]
    return {"type": "facts", "items": listed} if listed else None


def table(grid: Grid | None, caption: str = "") -> Block | None:
    """Sortable by each of its columns."""
    if grid is None:
        return None
    rows = [{"cells": list(row.cells), "kind": _kind(row.strong, row.faint, row.ends)} for row in grid.rows]
    caption = caption or grid.title
    return {"type": "table", "headers": list(grid.headers), "left": grid.left, "rows": rows, "caption": caption}


def folded(summary: str, blocks: Iterable[Block | None]) -> Block | None:
    """Blocks behind a line that opens them."""
    kept = [block for block in blocks if block is not None]
    return {"type": "folded", "summary": summary, "blocks": kept} if kept else None


def row(blocks: Iterable[Block | None]) -> Block | None:
    """Blocks side by side where there is room."""
    kept = [block for block in blocks if block is not None]
    return {"type": "row", "blocks": kept} if kept else None


def line(
    label: str,
    y: Sequence[Number | None],
    *,
    colour: str = "",
    marker: str = "",
    dashed: bool = False,
    dotted: bool = False,
    strong: bool = False,
) -> Block:
    """A line of a plot, a value at each x. colour: as CSS says it; "": that of the text."""
    values = [None if value is None else finite(value) for value in y]
    look = {"colour": colour, "marker": marker, "dashed": dashed, "dotted": dotted, "strong": strong}
    return {"label": label, "y": values, **look}


def arm_line(arm: Arm, y: Sequence[Number | None]) -> Block:
    """As the plots of `report.md` draw an arm."""
    dashed = arm.mode == "pruned" and not arm.finetuned
    return line(arm.label, y, colour=arm.colour, marker=arm.marker, dashed=dashed, strong=arm in RESULTS)


def plot(
    title: str,
    x: Sequence[Number],
    lines: Sequence[Block],
    *,
    x_title: str = "",
    y_title: str = "",
    names: Sequence[str] = (),
    log: bool = False,
    zero: bool = False,
) -> Block | None:
    """Lines over a shared x, with what they show as a table. names: what the ticks are called, where x is 0, 1, ...;
    zero: the y axis begins there."""
    known = [one for one in lines if any(value is not None for value in one["y"])]
    if not known:
        return None
    return {
        "type": "plot",
        "title": title,
        "x": list(x),
        "lines": known,
        "x_title": x_title,
        "y_title": y_title,
        "names": list(names),
        "log": log,
        "zero": zero,
    }


def bars(
    title: str, edges: Sequence[Number], counts: Mapping[str, Sequence[int]], *, x_title: str = ""
) -> Block | None:
    """Histograms over the same bins, by name."""
    known = {name: list(values) for name, values in counts.items() if any(values)}
    if not known:
        return None
    return {"type": "bars", "title": title, "edges": list(edges), "counts": known, "x_title": x_title}


def heat(
    title: str, down: Sequence[str], across: Sequence[str], values: Sequence[Sequence[Number | None]], *, corner: str
) -> Block:
    """A table of shares of one, each cell as dark as its number."""
    cells = [[None if value is None else finite(value) for value in line] for line in values]
    return {
        "type": "heat",
        "title": title,
        "down": list(down),
        "across": list(across),
        "values": cells,
        "corner": corner,
    }


def finite(value: Number) -> float | None:
    """To six digits; None for what is no number."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _kind(strong: bool, faint: bool, ends: bool) -> str:
    return " ".join(name for name, holds in (("strong", strong), ("faint", faint), ("ends", ends)) if holds)
