"""Circuits: the exact graph of what the pruned pass computes on a prompt, and the connections around a feature.

from scae import open_run
from scae.circuit import circuit
circuit(open_run(DIR), "Once upon a time").prune().save("circuits/once")
around(open_run(DIR), "2.mlp/17", steps=2).save("circuits/2.mlp-17")
"""

from scae.attribution import Node, Nodes, Scores
from scae.circuit.graph import Circuit
from scae.circuit.prompt import circuit
from scae.circuit.record import About, Pruning
from scae.circuit.static import around

__all__ = ["About", "Circuit", "Node", "Nodes", "Pruning", "Scores", "around", "circuit"]
