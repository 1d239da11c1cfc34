"""The arms of an experiment: what is compared, in the order in which every table and plot shows it.

An arm is declared here and nowhere else: the plan, the evaluation and the report read this table. Nothing here imports
torch.
"""

from dataclasses import dataclass
from typing import Literal

Pass = Literal["plain", "spliced", "dense", "pruned"]
Choice = Literal["chosen", "random", "all", "none"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to run the suite.

    key: prefix in `metrics.json`, and what the log calls its finetuning
    label: name in tables and plots
    meaning: what it is, in one line
    mode: the pass that it runs
    connections: which of them that pass runs along; None: along none, it reads the model
    finetuned: whether its suite is trained further in that pass; otherwise it is as pretraining has left it
    twin: whether it is there with `evaluation.twins` only
    colour, marker: how a plot draws it
    """

    key: str
    label: str
    meaning: str
    mode: Pass
    connections: Choice | None
    finetuned: bool
    twin: bool
    colour: str
    marker: str

    @property
    def fixed(self) -> bool:
        """Its numbers do not depend on which connections are chosen: against C it is a horizontal line."""
        return self.connections not in ("chosen", "random")

    @property
    def own_pass(self) -> bool:
        """Its suite was trained to run like this."""
        return self.finetuned or self.mode in ("plain", "spliced")

    @property
    def unpruned(self) -> bool:
        """Whether a suite without connections can run it, as pretraining has left it."""
        return self.connections is None and not self.finetuned


# Colours: Okabe and Ito, told apart with any colour vision.
ARMS: tuple[Arm, ...] = (
    Arm(
        key="plain",
        label="plain",
        meaning="each dictionary reads the model's true activations; all reconstructions stand in for the modules",
        mode="plain",
        connections=None,
        finetuned=False,
        twin=False,
        colour="#0072B2",
        marker="s",
    ),
    Arm(
        key="spliced",
        label="spliced",
        meaning="every reconstruction is put back into the live model, whose later modules read what it makes of them",
        mode="spliced",
        connections=None,
        finetuned=False,
        twin=False,
        colour="#117733",
        marker="h",
    ),
    Arm(
        key="dense",
        label="dense",
        meaning="the pruned pass with every connection kept: the suite reads only its own reconstructions",
        mode="dense",
        connections="all",
        finetuned=False,
        twin=False,
        colour="#56B4E9",
        marker="v",
    ),
    Arm(
        key="pruned",
        label="pruned",
        meaning="each feature reads its selected connections only; finetuned. The result of the experiment",
        mode="pruned",
        connections="chosen",
        finetuned=True,
        twin=False,
        colour="#D55E00",
        marker="o",
    ),
    Arm(
        key="pruned_no_finetune",
        label="pruned, no finetune",
        meaning="the same connections before finetuning: what selection alone achieves",
        mode="pruned",
        connections="chosen",
        finetuned=False,
        twin=False,
        colour="#D55E00",
        marker="o",
    ),
    Arm(
        key="random_no_finetune",
        label="random, no finetune",
        meaning="as many connections into each feature, drawn at random, before finetuning",
        mode="pruned",
        connections="random",
        finetuned=False,
        twin=False,
        colour="#CC79A7",
        marker="D",
    ),
    Arm(
        key="random",
        label="random",
        meaning="as many connections into each feature, drawn at random, finetuned on the same loss and tokens",
        mode="pruned",
        connections="random",
        finetuned=True,
        twin=True,
        colour="#CC79A7",
        marker="D",
    ),
    Arm(
        key="none",
        label="no connections",
        meaning="no connections, finetuned likewise: what the embedding and the biases can do alone",
        mode="pruned",
        connections="none",
        finetuned=True,
        twin=True,
        colour="#7F7F7F",
        marker="X",
    ),
    Arm(
        key="dense_finetuned",
        label="dense, finetuned",
        meaning="every connection, finetuned likewise: the ceiling of any choice of connections",
        mode="pruned",
        connections="all",
        finetuned=True,
        twin=True,
        colour="#E69F00",
        marker="^",
    ),
    Arm(
        key="plain_finetuned",
        label="plain, finetuned",
        meaning="the plain pass finetuned on the same loss and tokens: what more training gives without pruning",
        mode="plain",
        connections=None,
        finetuned=True,
        twin=True,
        colour="#009E73",
        marker="P",
    ),
)
RESULT = next(arm for arm in ARMS if arm.key == "pruned")
"""The arm that an experiment is about."""
UNPRUNED_RESULT = next(arm for arm in ARMS if arm.key == "spliced")
"""The same of an experiment whose suite is not pruned."""
