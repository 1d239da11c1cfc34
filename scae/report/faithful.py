"""What interventions and circuits say of the connections, beside as many random ones: the numbers of the whole."""

from scae.report.files import Metrics
from scae.report.grid import Grid, Row, number

TITLE = "Are the connections what they say?"
ROWS = (("chosen", ""), ("random", "_random"))
COLUMNS = (
    ("rank", "faithfulness", "rank"),
    ("R²", "faithfulness", "r2"),
    ("slope", "faithfulness", "slope"),
    ("KL by size", "scalar", "log_area"),
    ("replacement", "explained", "replacement"),
    ("completeness", "explained", "completeness"),
    ("strict replacement", "explained", "strict_replacement"),
    ("strict completeness", "explained", "strict_completeness"),
)
MEANING = (
    "Rank, R², slope: of the change that a connection foretells and the one that the live model shows when the feature "
    "upstream is changed in it. KL by size: to the model along the n strongest connections alone, as the mean over "
    "log n. Replacement, completeness: of the circuits of prompts, how much of a prediction comes from tokens and not "
    "from errors, and how much of what nodes read is no error; the strict ones count as an error what was cut, too."
)


def faithful_grid(metrics: Metrics) -> Grid | None:
    """Along the chosen connections and along random ones; None where neither was looked at."""
    rows = []
    for name, twin in ROWS:
        cells = [number(metrics.get(f"analysis/{section}{twin}/{key}")) for _, section, key in COLUMNS]
        rows.append(Row(cells=(name, *cells), strong=not twin))
    grid = Grid(headers=("connections", *(name for name, _, _ in COLUMNS)), rows=tuple(rows)).without_empty_columns()
    return grid if len(grid.headers) > 1 else None


def faithful_sections(metrics: Metrics) -> list[str]:
    """Markdown; nothing where no connection was looked at."""
    grid = faithful_grid(metrics)
    return [] if grid is None else [grid.markdown(), MEANING]
