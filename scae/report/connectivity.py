"""The `connectivity/*` numbers as tables: scalars, one value a site, and one value a pair of sites."""

from scae.report.files import Metrics, natural
from scae.report.grid import MISSING, Grid, Row

LARGEST_MATRIX = 16  # sites; beyond it the pairs stay in metrics.json
Entries = dict[tuple[str, ...], float]


def connectivity_sections(metrics: Metrics) -> list[str]:
    """Markdown, a block a table."""
    parts = {tuple(key.split("/")[1:]): float(v) for key, v in metrics.items() if key.startswith("connectivity/")}
    scalars, by_site, pairs = ({path: v for path, v in parts.items() if len(path) == size} for size in (1, 2, 3))
    blocks = []
    if scalars:
        rows = tuple(Row(cells=(path[0].replace("_", " "), _plain(value))) for path, value in scalars.items())
        blocks.append(Grid(headers=("statistic", "value"), rows=rows).markdown())
    if by_site:
        blocks.append(_crossed(by_site, corner="site", turned=True))
    for name in dict.fromkeys(path[0] for path in pairs):
        blocks.append(_pairs(name, {path[1:]: value for path, value in pairs.items() if path[0] == name}))
    return blocks


def _pairs(name: str, values: Entries) -> str:
    downstream = {down for down, _ in values}
    if len(downstream) > LARGEST_MATRIX:
        return f"`connectivity/{name}/<down>/<up>` for {len(downstream)} downstream sites: in `metrics.json`."
    return f"`{name}`: row the reading site, column the site read.\n\n" + _crossed(values, corner="reads")


def _crossed(values: Entries, *, corner: str, turned: bool = False) -> str:
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
    return Grid(headers=(corner, *(top.replace("_", " ") for top in across)), rows=rows).markdown()


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,.4g}"
