"""What the pruned pass computes on one window, as a graph whose edges sum to it, and how much of it reaches the logits.

found = exact(suite, lm.trace(tokens, live))     nodes, links, and by how much sums of edges are off
scores(found.nodes, found.links)                 replacement and completeness (Ameisen et al. 2025)
"""

from scae.attribution.exact import MOST, PROBABILITY, Exact, demand_circuit, demand_connections, exact
from scae.attribution.influence import Kept, Scores, cumulative, cut, influence, scores
from scae.attribution.links import Links
from scae.attribution.nodes import KINDS, Kind, Node, Nodes

__all__ = [
    "KINDS",
    "MOST",
    "PROBABILITY",
    "Exact",
    "Kept",
    "Kind",
    "Links",
    "Node",
    "Nodes",
    "Scores",
    "cumulative",
    "cut",
    "demand_circuit",
    "demand_connections",
    "exact",
    "influence",
    "scores",
]
