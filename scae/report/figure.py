"""What the plots share: their look, log axes with plain numbers, and labels at the ends of lines.

Figures are made without pyplot, so that a report neither needs a display nor leaves state behind.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from scae.core.whole_files import write

DPI = 150
INK = "#333333"
FAINT = "#8A8A8A"
LOOK: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": "#B0B0B0",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "grid.color": "#E9E9E9",
    "grid.linewidth": 0.8,
    "xtick.color": "#B0B0B0",
    "ytick.color": "#B0B0B0",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "ytick.major.size": 0,
    "text.color": INK,
}


@dataclass(frozen=True, kw_only=True)
class EndLabel:
    """The name of a line: from where it ends (data coordinates) to a place of its own at the right edge."""

    text: str
    x: float
    y: float
    colour: str
    bold: bool = False


@contextmanager
def look() -> Iterator[None]:
    with matplotlib.rc_context(LOOK):
        yield


def canvas(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> Path:
    return write(path, lambda temporary: figure.savefig(temporary, format="png", dpi=DPI))


def finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def scale_y(axes: Axes, values: Sequence[float], *, log_from: float, zero: bool = False) -> bool:
    """Limits that hold all values; whether it is a log axis: where the largest is `log_from` times the smallest.

    zero: a linear axis starts at 0
    """
    values = finite(values)
    if not values:
        return False
    low, high = min(values), max(values)
    if low > 0 and high / low >= log_from:
        pad = (high / low) ** 0.06
        low, high = low / pad, high * pad
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(FixedLocator(log_ticks(low, high)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_ylim(low, high)
        return True
    pad = 0.06 * (high - low or abs(high) or 1.0)
    axes.set_ylim(0 if zero and low >= 0 else low - pad, high + pad)
    return False


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two positive ones, at least four where that is possible."""
    ticks: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [float(f"{step * 10.0**decade:.3g}") for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 4:
            break
    return ticks


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The ascending places nearest to the given ascending ones that lie `gap` apart (least squares), in [low, high].

    Subtracting i * gap turns the distance into an order: isotonic regression by pooling adjacent violators.
    """
    pools: list[tuple[float, int]] = []
    for i, place in enumerate(places):
        mean, size = place - i * gap, 1
        while pools and pools[-1][0] > mean:
            before, count = pools.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        pools.append((mean, size))
    flat = [mean for mean, size in pools for _ in range(size)]
    top = max(low, high - (len(places) - 1) * gap)
    return [min(max(mean, low), top) + i * gap for i, mean in enumerate(flat)]


def label_ends(axes: Axes, labels: Sequence[EndLabel], *, size: float = 9.5) -> None:
    """Write each label right of the axes at the height of its line, moved apart where they would touch."""
    figure: Any = axes.figure
    width, height = (float(inches) * 72 for inches in axes.get_position().size * figure.get_size_inches())
    bend, arrive, begin = (1 + points / width for points in (4, 11, 13))
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = [(label, *to_axes.transform((label.x, label.y))) for label in labels if math.isfinite(label.y)]
    ends.sort(key=lambda end: end[2])
    places = spread([float(end[2]) for end in ends], size * 1.38 / height, 0.0, 1.0)
    for (label, x, y), place in zip(ends, places, strict=True):
        axes.plot(
            [x, bend, arrive],
            [y, y, place],
            transform=axes.transAxes,
            color=label.colour,
            linewidth=0.7,
            alpha=0.55,
            clip_on=False,
            zorder=2,
        )
        axes.text(
            begin,
            place,
            label.text,
            transform=axes.transAxes,
            color=label.colour,
            fontsize=size,
            fontweight="bold" if label.bold else "normal",
            verticalalignment="center",
        )
