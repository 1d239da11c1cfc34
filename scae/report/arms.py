"""The arms of an experiment: what is compared, in the order in which every table and plot shows it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Line = str | tuple[int, tuple[float, float]]
DASHED: Line = (0, (3.0, 1.6))  # not finetuned


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to run the suite.

    key: prefix in `metrics.json`
    label: name in tables and plots
    meaning: what it is, in one line
    fixed: its numbers do not depend on the connections, so against C it is a horizontal line
    colour, line, marker, width: how a plot draws it
    """

    key: str
    label: str
    meaning: str
    fixed: bool
    colour: str
    line: Line = "-"
    marker: str = "o"
    width: float = 1.6

    def style(self) -> dict[str, Any]:
        """The arguments of `Axes.plot`."""
        return {
            "color": self.colour,
            "linestyle": self.line,
            "marker": self.marker,
            "linewidth": self.width,
            "markersize": 4.2 + 0.8 * self.width,
            "markeredgecolor": "white",
            "markeredgewidth": 0.7,
            "zorder": 3 + self.width,
        }


# Colours: Okabe and Ito, told apart with any colour vision.
ARMS: tuple[Arm, ...] = (
    Arm(
        key="plain",
        label="plain",
        meaning="each dictionary reads the model's true activations; all reconstructions stand in for the modules",
        fixed=True,
        colour="#0072B2",
        marker="s",
    ),
    Arm(
        key="dense",
        label="dense",
        meaning="the pruned pass with every connection kept: the suite reads only its own reconstructions",
        fixed=True,
        colour="#56B4E9",
        marker="v",
    ),
    Arm(
        key="pruned",
        label="pruned",
        meaning="each feature reads its selected connections only; finetuned. The result of the experiment",
        fixed=False,
        colour="#D55E00",
        width=3.0,
    ),
    Arm(
        key="pruned_no_finetune",
        label="pruned, no finetune",
        meaning="the same connections before finetuning: what selection alone achieves",
        fixed=False,
        colour="#D55E00",
        line=DASHED,
    ),
    Arm(
        key="random_no_finetune",
        label="random, no finetune",
        meaning="as many connections into each feature, drawn at random, before finetuning",
        fixed=False,
        colour="#CC79A7",
        line=DASHED,
        marker="D",
    ),
    Arm(
        key="random",
        label="random",
        meaning="as many connections into each feature, drawn at random, finetuned on the same loss and tokens",
        fixed=False,
        colour="#CC79A7",
        marker="D",
    ),
    Arm(
        key="none",
        label="no connections",
        meaning="no connections, finetuned likewise: what the embedding and the biases can do alone",
        fixed=True,
        colour="#7F7F7F",
        marker="X",
    ),
    Arm(
        key="dense_finetuned",
        label="dense, finetuned",
        meaning="every connection, finetuned likewise: the ceiling of any choice of connections",
        fixed=True,
        colour="#E69F00",
        marker="^",
    ),
    Arm(
        key="plain_finetuned",
        label="plain, finetuned",
        meaning="the plain pass finetuned on the same loss and tokens: what more training gives without pruning",
        fixed=True,
        colour="#009E73",
        marker="P",
    ),
)

MODEL_COLOUR = "#222222"


def present(keys: Iterable[str]) -> tuple[Arm, ...]:
    """The arms for which some metric exists, in order."""
    prefixes = {key.partition("/")[0] for key in keys}
    return tuple(arm for arm in ARMS if arm.key in prefixes)
