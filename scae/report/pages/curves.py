"""How training went: the loss and its terms, and the share of dead features, stage by stage."""

from scae.report.curves_figure import COLOURS, LOG_FROM, TERMS, drawn
from scae.report.files import Job
from scae.report.history import Curves, Points, read_curves
from scae.report.pages import blocks
from scae.report.pages.blocks import Block
from scae.report.words import CURVES

INK = COLOURS[0]
MOST = 400  # points of a line; a page is no wider


def curve_blocks(job: Job) -> list[Block | None]:
    """Two plots a stage, side by side; nothing where the histories are gone."""
    rows = [blocks.row([_losses(stage), _dead(stage)]) for stage in read_curves(job)]
    found: list[Block | None] = [one for one in rows if one is not None]
    return [*found, blocks.text(CURVES, faint=True)] if found else []


def _losses(stage: Curves) -> Block | None:
    lines = {}
    for whose, term, points in drawn(stage):
        lines[f"{term}, valid" if whose == "valid" else term] = (whose, term, thinned(points))
    x = sorted({step for _, _, points in lines.values() for step, _ in points})
    values = [value for _, _, points in lines.values() for _, value in points]
    log = bool(values) and min(values) > 0 and max(values) / min(values) > LOG_FROM
    made = []
    for label, (whose, term, points) in lines.items():
        known = dict(points)
        colour = COLOURS[TERMS.index(term) % len(COLOURS)]
        y, colour = [known.get(step) for step in x], "" if colour == INK else colour
        made.append(blocks.line(label, y, colour=colour, dotted=whose == "valid", strong=term == "loss"))
    title = f"{stage.stage}: loss and its terms" + (", log scale" if log else "")
    return blocks.plot(title, x, made, x_title="optimiser steps", log=log, zero=not log)


def _dead(stage: Curves) -> Block | None:
    points = thinned(stage.lines.get("train/dead", ()))
    if not points:
        return None
    made = blocks.line("dead %", [100 * share for _, share in points])
    title = f"{stage.stage}: dead features, %"
    return blocks.plot(title, [step for step, _ in points], [made], x_title="optimiser steps", zero=True)


def thinned(points: Points) -> Points:
    """At most `MOST` of them, evenly, the last one always."""
    if len(points) <= MOST:
        return points
    step = (len(points) - 1) / (MOST - 1)
    return tuple(points[round(i * step)] for i in range(MOST))
