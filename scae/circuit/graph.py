"""A circuit: the graph of a prompt, or of the connections around a feature, to be cut down, looked at and written."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from scae.circuit.influence import Scores, cumulative, cut, influence, scores
from scae.circuit.links import Links
from scae.circuit.nodes import Node, Nodes
from scae.circuit.words import Words
from scae.core.typing import Float, Int, Tensor

NODE_THRESHOLD, EDGE_THRESHOLD = 0.8, 0.98


@dataclass(frozen=True)
class About:
    """What a circuit is of. kind: of a prompt, or the connections around a feature; sites: of the suite, in order;
    absolute, relative: how far sums of edges are from what the pass has computed, at most (`scae.circuit.exact`)."""

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
class Circuit:
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

    @classmethod
    def whole(
        cls,
        about: About,
        words: Words,
        tokens: tuple[str, ...],
        nodes: Nodes,
        links: Links,
    ) -> "Circuit":
        """Not cut down."""
        found = influence(nodes, links)
        return cls(
            about,
            words,
            tokens,
            nodes,
            *links,
            influence=found,
            cumulative=cumulative(found),
            scores=scores(nodes, links) if about.kind == "prompt" else None,
        )

    def prune(self, node_threshold: float = NODE_THRESHOLD, edge_threshold: float = EDGE_THRESHOLD) -> "Circuit":
        """What holds these shares of the influence on the logits (`scae.circuit.influence`)."""
        if self.scores is None:
            raise ValueError("the connections around a feature lead to no logits, whose influence could be cut at")
        kept = cut(self.nodes, self._links, node_threshold=node_threshold, edge_threshold=edge_threshold)
        number = kept.node.cumsum(0) - 1
        return replace(
            self,
            nodes=self.nodes.kept(kept.node),
            source=number[self.source[kept.edge]],
            target=number[self.target[kept.edge]],
            weight=self.weight[kept.edge],
            influence=self.influence[kept.node],
            cumulative=self.cumulative[kept.node],
            pruning=Pruning(node_threshold, edge_threshold, len(self.nodes), len(self.weight)),
        )

    def inputs(self, node: int) -> list[tuple[Node, float]]:
        """The edges into one node, by its number, strongest first."""
        return self._edges(self.target == node, self.source)

    def outputs(self, node: int) -> list[tuple[Node, float]]:
        """The edges out of one node, strongest first."""
        return self._edges(self.source == node, self.target)

    def json(self, slug: str = "circuit") -> dict[str, Any]:
        """As Neuronpedia and circuit-tracer read it (`scae.circuit.neuronpedia`)."""
        from scae.circuit.neuronpedia import as_json

        return as_json(self, slug)

    def save(self, folder: str | Path, slug: str | None = None) -> Path:
        """`graph.json` and the page that shows it; returns the folder, whose name is the slug where none is given."""
        from scae.circuit.files import write

        return write(self, Path(folder), slug)

    def __len__(self) -> int:
        return len(self.nodes)

    def __repr__(self) -> str:
        return f"Circuit({self.about.subject!r}, {len(self.nodes)} nodes, {len(self.weight)} edges)"

    @cached_property
    def _links(self) -> Links:
        return Links(self.source, self.target, self.weight)

    def _edges(self, which: Tensor, end: Tensor) -> list[tuple[Node, float]]:
        found = which.nonzero()[:, 0]
        found = found[self.weight[found].abs().argsort(descending=True)]
        return [(self.nodes[int(end[edge])], float(self.weight[edge])) for edge in found.tolist()]
