"""What each dictionary does by itself, for suites whose evaluation has measured that."""

from scae.arms import ARMS
from scae.report.files import Metrics, natural
from scae.report.grid import Grid, Row, number

MEANING = (
    "One dictionary at a time in place of what it reconstructs, everything else being the live model's own. CE rec.: "
    "share of the way from 0 in that place to the model. FVU, L0 and dead: in the plain pass."
)
HEADERS = ("site", "ΔCE", "CE rec. %", "KL", "FVU", "L0", "dead %")
PLAIN = next(arm for arm in ARMS if arm.key == "plain")


def alone_grid(metrics: Metrics) -> Grid | None:
    """A row a site; None where it was not measured."""
    prefix = "alone/ce_diff/"
    sites = sorted((key.removeprefix(prefix) for key in metrics if key.startswith(prefix)), key=natural)
    if not sites:
        return None
    rows = [
        Row(
            cells=(
                site,
                number(metrics.get(f"alone/ce_diff/{site}"), sign=True),
                number(metrics.get(f"alone/ce_recovered/{site}"), 1, scale=100.0),
                number(metrics.get(f"alone/kl/{site}")),
                number(metrics.get(f"{PLAIN.key}/fvu/{site}")),
                number(metrics.get(f"{PLAIN.key}/l0/{site}"), 1),
                number(metrics.get(f"{PLAIN.key}/dead/{site}"), 1, scale=100.0),
            )
        )
        for site in sites
    ]
    return Grid(headers=HEADERS, rows=tuple(rows))


def alone_sections(metrics: Metrics) -> list[str]:
    """Paragraphs and a table; nothing where it was not measured."""
    grid = alone_grid(metrics)
    return [] if grid is None else [MEANING, grid.markdown()]
