"""`fvu.png`: the fraction of variance unexplained at every site, one line an arm. Above 1, the mean would do better."""

from pathlib import Path

from matplotlib.axes import Axes

from scae.report.arms import RESULTS, present, style
from scae.report.arms_grid import sites
from scae.report.figure import FAINT, EndLabel, canvas, label_ends, look, save, scale_y
from scae.report.files import Metrics

LOG_FROM = 25.0  # the ratio of largest to smallest FVU beyond which a linear axis hides the small ones


def fvu_figure(metrics: Metrics, path: Path) -> Path | None:
    """Draw it to `path`; None if there is no FVU to draw."""
    order = sites(metrics, "fvu")
    if not order:
        return None
    plot_width, left, right = max(5.2, 0.55 * len(order) + 1.0), 0.6, 2.3
    width, height, bottom, top = left + plot_width + right, 4.6, 0.7, 0.75
    with look():
        figure = canvas(width, height)
        axes = figure.add_axes((left / width, bottom / height, plot_width / width, 1 - (bottom + top) / height))
        labels, values = _lines(axes, metrics, order)
        axes.set_xlim(-0.5, len(order) - 0.5)
        is_log = scale_y(axes, [*values, 1.0], log_from=LOG_FROM, zero=True)
        axes.axhline(1.0, color=FAINT, linewidth=1.0, linestyle=(0, (1, 1.5)), zorder=1.5)
        axes.set_title("Fraction of variance unexplained (FVU) by site" + (", log scale" if is_log else ""), pad=24)
        axes.text(0, 1.035, "beside each arm: its mean over sites", transform=axes.transAxes, fontsize=9, color=FAINT)
        _site_axis(axes, order)
        labels.append(EndLabel(text="1 = predicting the mean", x=len(order) - 0.5, y=1.0, colour=FAINT))
        label_ends(axes, labels)
        return save(figure, path)


def _lines(axes: Axes, metrics: Metrics, order: tuple[str, ...]) -> tuple[list[EndLabel], list[float]]:
    """Draw a line an arm; its label with the mean over sites, and every value drawn."""
    labels: list[EndLabel] = []
    drawn: list[float] = []
    for arm in present(metrics):
        points = [(i, metrics.get(f"{arm.key}/fvu/{site}")) for i, site in enumerate(order)]
        known = [(i, value) for i, value in points if value is not None]
        if not known:
            continue
        axes.plot([i for i, _ in known], [value for _, value in known], **style(arm))
        drawn.extend(value for _, value in known)
        mean = metrics.get(f"{arm.key}/fvu_mean")
        text = arm.label if mean is None else f"{arm.label}  {mean:.2f}"
        x, y = known[-1]
        labels.append(EndLabel(text=text, x=float(x), y=y, colour=arm.colour, bold=arm in RESULTS))
    return labels, drawn


def _site_axis(axes: Axes, order: tuple[str, ...]) -> None:
    """Module names under the ticks, the layer under its modules, every other layer on a light band."""
    split = [site.rpartition(".") for site in order]
    axes.set_xticks(range(len(order)), [kind for _, _, kind in split], fontsize=9)
    axes.tick_params(axis="x", length=0, pad=4)
    layers = list(dict.fromkeys(layer for layer, _, _ in split))
    for number, layer in enumerate(layers):
        places = [i for i, (own, _, _) in enumerate(split) if own == layer]
        if number % 2 == 0:
            axes.axvspan(places[0] - 0.5, places[-1] + 0.5, color="#F6F6F6", linewidth=0, zorder=0)
        if layer:
            name = f"layer {layer}" if len(layers) <= 8 else layer
            middle = (places[0] + places[-1]) / 2
            axes.text(middle, -0.11, name, transform=axes.get_xaxis_transform(), ha="center", va="center")
