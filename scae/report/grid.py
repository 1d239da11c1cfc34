"""A table as data, with its two faces: the terminal (rich) and a page (Markdown)."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

from rich import box
from rich.table import Table
from rich.text import Text

MISSING = "-"
HEADER_ROOM = 7  # characters; a number column's longer header is broken, so that the table stays narrow


@dataclass(frozen=True, kw_only=True)
class Row:
    """cells: one text a column; strong: the row to look at; faint: a reference; ends: a rule follows."""

    cells: tuple[str, ...]
    strong: bool = False
    faint: bool = False
    ends: bool = False


@dataclass(frozen=True, kw_only=True)
class Grid:
    """headers: one a column; left: how many columns from the left hold words (the rest are numbers)."""

    headers: tuple[str, ...]
    rows: tuple[Row, ...]
    left: int = 1
    title: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.cells) != len(self.headers):
                raise ValueError(f"{len(row.cells)} cells under {len(self.headers)} headers: {row.cells}")

    def without_empty_columns(self) -> "Grid":
        """Leave out the columns in which no row has a value."""
        kept = [i for i in range(len(self.headers)) if any(row.cells[i] != MISSING for row in self.rows) or i == 0]
        rows = tuple(
            Row(cells=tuple(row.cells[i] for i in kept), strong=row.strong, faint=row.faint, ends=row.ends)
            for row in self.rows
        )
        headers = tuple(self.headers[i] for i in kept)
        return Grid(headers=headers, rows=rows, left=sum(i < self.left for i in kept), title=self.title)

    def rich(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, title=self.title or None, title_justify="left", pad_edge=False)
        for i, header in enumerate(self.headers):
            words = i < self.left
            room = max([HEADER_ROOM, *(len(row.cells[i]) for row in self.rows)])
            lines = header if words else "\n".join(wrap(header, room, break_long_words=False))
            table.add_column(Text(lines), justify="left" if words else "right", no_wrap=not words, overflow="fold")
        for row in self.rows:
            style = "bold" if row.strong else "dim" if row.faint else ""
            table.add_row(*(Text(cell) for cell in row.cells), style=style, end_section=row.ends)
        return table

    def markdown(self) -> str:
        rule = ["---" if i < self.left else "--:" for i in range(len(self.headers))]
        lines = [_line(self.headers), _line(rule)]
        for row in self.rows:
            bold = [f"**{cell}**" if row.strong and cell != MISSING else cell for cell in map(_escape, row.cells)]
            lines.append(_line(bold))
        return "\n".join(lines)


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def number(value: float | int | None, digits: int = 3, *, scale: float = 1.0, sign: bool = False) -> str:
    """A number to so many digits after the point, or the dash of a missing one."""
    if value is None:
        return MISSING
    return f"{value * scale:{'+' if sign else ''},.{digits}f}"


def duration(seconds: float | int | None) -> str:
    """`"3.2 s"`, `"4 min 05 s"`, `"2 h 07 min"`."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
