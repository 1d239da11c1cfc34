"""A circuit: the graph of a prompt, or of the connections around a feature, to be cut down, looked at and written."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from scae.attribution import Links, Node, Nodes, cumulative, cut, influence, scores
from scae.circuit.files import write
from scae.circuit.neuronpedia import as_json
from scae.circuit.record import About, Graph, Pruning
from scae.circuit.words import Words
from scae.core.typing import Tensor

NODE_THRESHOLD, EDGE_THRESHOLD = 0.8, 0.98


class Circuit(Graph):
    """A graph with what can be done with it."""

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
        """What holds these shares of the influence on the logits (`scae.attribution.influence`)."""
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
        return as_json(self, slug)

    def save(self, folder: str | Path, slug: str | None = None) -> Path:
        """`graph.json` and the page that shows it; returns the folder, whose name is the slug where none is given."""
        folder = Path(folder)
        return write(self.json(slug or folder.absolute().name), folder)

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
