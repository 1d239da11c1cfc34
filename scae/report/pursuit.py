"""The codes that were searched for beside those that the dictionaries encode."""

from scae.report.files import Metrics, natural
from scae.report.grid import Grid, Row, number

ARMS = ("plain", "pursuit")
HEADERS = ("site", "FVU, encoder", "FVU, search", "L0, encoder", "L0, search")
MEANING = (
    "Over the same dictionaries, the code of each token searched for (`evaluation.pursuit`) instead of encoded, with "
    "at most as many features as the encoder's in the plain pass. What the search gains, a better encoder might gain; "
    "at a transcoder the search sees what should be written, which no encoder does."
)


def pursuit_grid(metrics: Metrics) -> Grid | None:
    """A row a site and their mean; None where nothing was searched for."""
    sites = sorted((key.removeprefix("pursuit/fvu/") for key in metrics if key.startswith("pursuit/fvu/")), key=natural)
    if not sites:
        return None
    columns = [[metrics.get(f"{arm}/{name}/{site}") for site in sites] for name in ("fvu", "l0") for arm in ARMS]
    rows = [Row(cells=(site, *_cells([column[i] for column in columns]))) for i, site in enumerate(sites)]
    rows[-1] = Row(cells=rows[-1].cells, ends=True)
    rows.append(Row(cells=("mean", *_cells([_mean(column) for column in columns])), strong=True))
    return Grid(headers=HEADERS, rows=tuple(rows)).without_empty_columns()


def pursuit_sections(metrics: Metrics) -> list[str]:
    """Markdown; nothing where nothing was searched for."""
    grid = pursuit_grid(metrics)
    return [] if grid is None else [MEANING, grid.markdown()]


def _cells(values: list[float | None]) -> tuple[str, ...]:
    digits = (3, 3, 1, 1)
    return tuple(number(value, places) for value, places in zip(values, digits, strict=True))


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
