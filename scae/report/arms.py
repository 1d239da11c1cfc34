"""The arms that a report shows, and how a plot draws them."""

from collections.abc import Iterable
from typing import Any

from scae.arms import ARMS, RESULT, UNPRUNED_RESULT, Arm

Line = str | tuple[int, tuple[float, float]]
DASHED: Line = (0, (3.0, 1.6))
MODEL_COLOUR = "#222222"
RESULTS = (RESULT, UNPRUNED_RESULT)


def present(keys: Iterable[str]) -> tuple[Arm, ...]:
    """The arms for which some metric exists, in order."""
    prefixes = {key.partition("/")[0] for key in keys}
    return tuple(arm for arm in ARMS if arm.key in prefixes)


def result(keys: Iterable[str]) -> Arm:
    """The arm that these metrics are about."""
    arms = present(keys)
    return UNPRUNED_RESULT if UNPRUNED_RESULT in arms and RESULT not in arms else RESULT


def style(arm: Arm) -> dict[str, Any]:
    """The arguments of `Axes.plot`: the result stands out, and a pass that was not finetuned is dashed."""
    width = 3.0 if arm in RESULTS else 1.6
    return {
        "color": arm.colour,
        "linestyle": DASHED if arm.mode == "pruned" and not arm.finetuned else "-",
        "marker": arm.marker,
        "linewidth": width,
        "markersize": 4.2 + 0.8 * width,
        "markeredgecolor": "white",
        "markeredgewidth": 0.7,
        "zorder": 3 + width,
    }
