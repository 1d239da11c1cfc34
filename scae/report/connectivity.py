"""The `connectivity/*` numbers as tables: scalars, one value a site, and one value a pair of sites."""

from scae.report.files import Metrics, natural
from scae.report.grid import MISSING, Grid, Row

LARGEST_MATRIX = 16  # sites; beyond it the pairs stay in metrics.json
Entries = dict[tuple[str, ...], float]


def connectivity_sections(metrics: Metrics) -> list[str]:
    """Markdown, a block a table."""
    blocks = [grid.markdown() for grid in (scalars_grid(metrics), sites_grid(metrics)) if grid is not None]
    pairs = entries(metrics, 3)
    for name in dict.fromkeys(path[0] for path in pairs):
        blocks.append(_pairs(name, {path[1:]: value for path, value in pairs.items() if path[0] == name}))
    return blocks


def entries(metrics: Metrics, size: int) -> Entries:
    """The numbers below `connectivity/` whose names have so many parts more."""
    parts = {tuple(key.split("/")[1:]): float(v) for key, v in metrics.items() if key.startswith("connectivity/")}
    return {path: value for path, value in parts.items() if len(path) == size}


def scalars_grid(metrics: Metrics) -> Grid | None:
    """The numbers of the whole suite, a row each."""
    rows = tuple(Row(cells=(path[0].replace("_", " "), _plain(v))) for path, v in entries(metrics, 1).items())
    return Grid(headers=("statistic", "value"), rows=rows) if rows else None


def sites_grid(metrics: Metrics) -> Grid | None:
    """The numbers of each site, a row a site."""
    by_site = entries(metrics, 2)
    return _crossed(by_site, corner="site", turned=True) if by_site else None


def _pairs(name: str, values: Entries) -> str:
    downstream = {down for down, _ in values}
    if len(downstream) > LARGEST_MATRIX:
        return f"`connectivity/{name}/<down>/<up>` for {len(downstream)} downstream sites: in `metrics.json`."
    return f"`{name}`: row the reading site, column the site read.\n\n" + _crossed(values, corner="reads").markdown()


def _crossed(values: Entries, *, corner: str, turned: bool = False) -> Grid:
    """A table of values named by two parts, the first down the side (`turned`: along the top)."""
    cells = {(path[1], path[0]) if turned else path: value for path, value in values.items()}
    down = sorted({path[0] for path in cells}, key=natural)
    across = list(dict.fromkeys(path[1] for path in cells)) if turned else sorted({p[1] for p in cells}, key=natural)
    share = all(0 <= value <= 1 for value in cells.values())

    def text(value: float | None) -> str:
        if value is None:
            return MISSING
        return f"{100 * value:.1f} %" if share else _plain(value)

    rows = tuple(Row(cells=(side, *(text(cells.get((side, top))) for top in across))) for side in down)
    return Grid(headers=(corner, *(top.replace("_", " ") for top in across)), rows=rows)


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,.4g}"
