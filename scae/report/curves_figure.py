"""`curves.png`: how training went, a row a stage: its loss and the terms of it, and the share of dead features.

Terms are drawn as they are before weighting; what training measured is a line, what validation measured is dotted.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from scae.config import Loss
from scae.report.figure import FAINT, INK, EndLabel, canvas, label_ends, look, save, scale_y
from scae.report.history import Curves, Points

TERMS = ("loss", *Loss.model_fields)
COLOURS = (INK, "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")  # Okabe and Ito
LOG_FROM = 25.0  # the ratio of largest to smallest value beyond which a linear axis hides the small ones
DOTTED: dict[str, Any] = {"linestyle": (0, (1, 1.2)), "marker": "o", "markersize": 4, "zorder": 4}
LOSS, DEAD, LEFT, GAP, RIGHT = 5.0, 2.6, 0.65, 2.25, 1.1  # inches, across
ROW, TOP, BOTTOM = 2.2, 0.6, 0.5  # inches, down: the axes of a stage, and what is above and below them


def curves_figure(stages: Sequence[Curves], path: Path) -> Path | None:
    """Draw it to `path`; None if there is nothing to draw."""
    stages = [stage for stage in stages if drawn(stage)]
    if not stages:
        return None
    width, height = LEFT + LOSS + GAP + DEAD + RIGHT, len(stages) * (ROW + TOP + BOTTOM)
    with look():
        figure = canvas(width, height)
        for number, stage in enumerate(stages):
            bottom = (height - (number + 1) * (ROW + TOP + BOTTOM) + BOTTOM) / height
            loss = figure.add_axes((LEFT / width, bottom, LOSS / width, ROW / height))
            _losses(loss, stage)
            dead = stage.lines.get("train/dead")
            if dead is not None:
                left = (LEFT + LOSS + GAP) / width
                _dead(figure.add_axes((left, bottom, DEAD / width, ROW / height)), dead)
        return save(figure, path)


def drawn(stage: Curves) -> list[tuple[str, str, Points]]:
    """(whose, term, points) of every line, the terms in order."""
    found = [(whose, term, stage.lines.get(f"{whose}/{term}", ())) for term in TERMS for whose in ("train", "valid")]
    found = [line for line in found if line[2]]
    terms = [(whose, term) for whose, term, _ in found if term != "loss"]
    several = {whose for whose in ("train", "valid") if sum(own == whose for own, _ in terms) > 1}
    return [line for line in found if line[1] == "loss" or line[0] in several]  # a term that is alone is the loss


def _losses(axes: Axes, stage: Curves) -> None:
    labels, values = [], []
    for whose, term, points in drawn(stage):
        colour = COLOURS[TERMS.index(term) % len(COLOURS)]
        look_of: dict[str, Any] = DOTTED if whose == "valid" else {"zorder": 3}
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=2.2 if term == "loss" else 1.4, **look_of)
        x, y = points[-1]
        name = f"{term}, valid" if whose == "valid" else term
        labels.append(EndLabel(text=f"{name}  {y:.3g}", x=x, y=y, colour=colour, bold=term == "loss"))
        values += [value for _, value in points]
    is_log = scale_y(axes, values, log_from=LOG_FROM, zero=True)
    axes.set_title(f"{stage.stage}: loss and its terms" + (", log scale" if is_log else ""))
    axes.set_xlabel("optimiser steps", fontsize=9, color=FAINT)
    label_ends(axes, labels)


def _dead(axes: Axes, points: Points) -> None:
    percent = [(step, 100 * share) for step, share in points]
    axes.plot(*zip(*percent, strict=True), color=INK, linewidth=1.6)
    scale_y(axes, [*(share for _, share in percent), 0.0], log_from=LOG_FROM, zero=True)
    axes.set_title("dead features, %")
    axes.set_xlabel("optimiser steps", fontsize=9, color=FAINT)
    x, y = percent[-1]
    label_ends(axes, [EndLabel(text=f"{y:.1f}", x=x, y=y, colour=INK)])
