"""`sweep.png`: cross-entropy and mean FVU of every arm against C (log axis, 0 set apart), or against what was swept."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median

from matplotlib.axes import Axes

from scae.arms import Arm
from scae.report.arms import MODEL_COLOUR, RESULTS, present, style
from scae.report.figure import FAINT, EndLabel, canvas, finite, label_ends, look, save, scale_y
from scae.report.files import Job
from scae.report.sweep_jobs import ALL, Axis, ordered, panels_of

LOG_FROM = {"ce": 2.5, "fvu_mean": 12.0}  # ratios beyond which a log axis shows more; CE ends far from 0
TITLES = {"ce": "Cross-entropy, nats per token", "fvu_mean": "Mean FVU over sites"}
SAME = 0.02  # a fixed arm whose values differ by more than this share is drawn as they are, not as a line
PLOT, LEFT, RIGHT = 4.3, 0.6, 2.2  # inches
HEIGHT, BOTTOM, TOP = 3.7, 0.65, 0.65

Places = dict[float | str, float]


def sweep_figure(jobs: Sequence[Job], axis: Axis, path: Path) -> Path | None:
    """Draw the jobs that have metrics; None if there is none."""
    done = [job for job in jobs if job.metrics and axis.place(job) is not None]
    if not done:
        return None
    panels = panels_of(done, axis)
    places = positions({place for job in done if (place := axis.place(job)) is not None}, numeric=axis.numeric)
    row, column = HEIGHT + BOTTOM + TOP, LEFT + PLOT + RIGHT
    with look():
        figure = canvas(2 * column, row * len(panels))
        for i, (title, members) in enumerate(panels.items()):
            for j, metric in enumerate(("ce", "fvu_mean")):
                bottom = (row * (len(panels) - 1 - i) + BOTTOM) / (row * len(panels))
                box = ((j * column + LEFT) / (2 * column), bottom, PLOT / (2 * column), HEIGHT / (row * len(panels)))
                axes = figure.add_axes(box)
                _panel(axes, members, axis, places, metric, title)
        return save(figure, path)


def positions(values: set[float | str], *, numeric: bool) -> Places:
    """Where each value lies: log2 C, with 0 and `all` one usual step outside the rest; or 0, 1, ... for categories."""
    order = ordered(values)
    positive = [math.log2(value) for value in order if isinstance(value, float) and 0 < value < ALL]
    if not numeric:
        return {value: float(i) for i, value in enumerate(order)}
    steps = [after - before for before, after in pairwise(positive)]
    step = median(steps) if steps else 2.0
    low, high = (positive[0], positive[-1]) if positive else (0.0, 0.0)
    ends = {0.0: low - step, ALL: high + step}
    return {value: ends[value] if value in ends else math.log2(float(value)) for value in order}


def _panel(axes: Axes, jobs: Sequence[Job], axis: Axis, places: Places, metric: str, title: str) -> None:
    left, right = min(places.values()), max(places.values())
    margin = 0.08 * (right - left) or 1.0
    axes.set_xlim(left - margin, right + margin)
    labels: list[EndLabel] = []
    drawn: list[float] = []
    for arm in present(key for job in jobs for key in job.metrics):
        means = _means(jobs, axis, f"{arm.key}/{metric}")
        if means:
            label, values = _draw(axes, arm, means, places, flat=axis.numeric and arm.fixed)
            labels.append(label)
            drawn.extend(values)
            _repeats(axes, jobs, axis, places, arm, metric)
    reference, name, colour = (1.0, "1 = predicting the mean", FAINT)
    if metric == "ce":
        models = finite([job.metrics["lm/ce"] for job in jobs if "lm/ce" in job.metrics])
        reference = fmean(models) if models else math.nan
        name, colour = f"language model  {reference:.2f}", MODEL_COLOUR
    if math.isfinite(reference):
        axes.axhline(reference, color=colour, linewidth=1.1, linestyle=(0, (1, 1.5)), zorder=1.5)
        labels.append(EndLabel(text=name, x=right + margin, y=reference, colour=colour))
        drawn.append(reference)
    is_log = scale_y(axes, drawn, log_from=LOG_FROM[metric], zero=metric == "fvu_mean")
    axes.set_title(TITLES[metric] + (", log scale" if is_log else "") + (f"\n{title}" if title else ""))
    _x_axis(axes, axis, places)
    label_ends(axes, labels)


def _means(jobs: Sequence[Job], axis: Axis, key: str) -> Places:
    """The mean of a metric over the jobs at each place, in order."""
    found: dict[float | str, list[float]] = {}
    for job in jobs:
        place, value = axis.place(job), job.metrics.get(key, math.nan)
        if place is not None and math.isfinite(value):
            found.setdefault(place, []).append(value)
    return {place: fmean(found[place]) for place in ordered(set(found))}


def _draw(axes: Axes, arm: Arm, means: Places, places: Places, *, flat: bool) -> tuple[EndLabel, list[float]]:
    """One arm, as a horizontal line where its values are one value; its label, and the values drawn."""
    drawn = style(arm)
    x, y = [places[place] for place in means], list(means.values())
    if flat and max(y) - min(y) <= SAME * abs(fmean(y)):
        y = [fmean(y)]
        axes.axhline(y[0], color=arm.colour, linewidth=drawn["linewidth"], linestyle=drawn["linestyle"], zorder=2.5)
        end = axes.get_xlim()[1]
    else:
        axes.plot(x, y, **drawn)
        end = x[-1]
    label = EndLabel(text=f"{arm.label}  {y[-1]:.2f}", x=end, y=y[-1], colour=arm.colour, bold=arm in RESULTS)
    return label, y


def _repeats(axes: Axes, jobs: Sequence[Job], axis: Axis, places: Places, arm: Arm, metric: str) -> None:
    """The single jobs behind a mean, where several share a place."""
    if arm.fixed or len({axis.place(job) for job in jobs}) == len(jobs):
        return
    found = [(axis.place(job), job.metrics.get(f"{arm.key}/{metric}")) for job in jobs]
    known = [(places[place], value) for place, value in found if place is not None and value is not None]
    axes.scatter([x for x, _ in known], [y for _, y in known], s=9, color=arm.colour, alpha=0.45, linewidths=0)


def _x_axis(axes: Axes, axis: Axis, places: Places) -> None:
    """A tick at every value swept, as many as have room."""
    axes.tick_params(axis="x", length=3, pad=4)
    if not axis.numeric:
        long = max(len(line) for place in places for line in str(place).split("\n")) * len(places) > 50
        axes.set_xticks(list(places.values()), [str(place) for place in places], fontsize=8.5)
        axes.tick_params(axis="x", rotation=18 if long else 0)
        axes.set_xlabel(axis.name if len(axis.keys) == 1 else "")
        return
    room = 0.07 * (max(places.values()) - min(places.values()))
    shown: Places = {}
    for place, x in places.items():
        if not shown or x - max(shown.values()) >= room:
            shown[place] = x
    names = ["all" if place == ALL else f"{place:g}" for place in shown]
    axes.set_xticks(list(shown.values()), names)
    axes.set_xlabel("connections per feature, C" + (" (log axis, 0 set apart)" if 0.0 in places else " (log axis)"))
