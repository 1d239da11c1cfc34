"""What a circuit is of, and the graph itself: what is drawn and written of it."""

from dataclasses import dataclass, field
from typing import Literal

from scae.attribution import Nodes, Scores
from scae.circuit.words import Words
from scae.core.typing import Float, Int, Tensor


@dataclass(frozen=True)
class About:
    """What a circuit is of. kind: of a prompt, or the connections around a feature; sites: of the suite, in order;
    absolute, relative: how far sums of edges are from what the pass has computed, at most (`scae.attribution`)."""

    kind: Literal["prompt", "global"]
    subject: str
    run: str
    model: str
    sites: tuple[str, ...]
    n_layers: int
    weight: str = "contribution"
    absolute: float | None = None
    relative: float | None = None


@dataclass(frozen=True)
class Pruning:
    """By which thresholds a circuit was cut down, and what it was before."""

    node_threshold: float
    edge_threshold: float
    n_nodes: int
    n_edges: int


@dataclass(frozen=True, eq=False)
class Graph:
    """nodes, and the edges between them: from `source` to `target`, numbers of nodes, each with its exact contribution
    `weight`; tokens: the text of each position.

    influence: `[node]` on the logits; scores: of the whole graph, also behind `prune`; None where there are no logits.
    """

    about: About
    words: Words = field(repr=False)
    tokens: tuple[str, ...]
    nodes: Nodes = field(repr=False)
    source: Int[Tensor, " edge"] = field(repr=False)
    target: Int[Tensor, " edge"] = field(repr=False)
    weight: Float[Tensor, " edge"] = field(repr=False)
    influence: Float[Tensor, " node"] = field(repr=False)
    cumulative: Float[Tensor, " node"] = field(repr=False)
    scores: Scores | None
    pruning: Pruning | None = None
