"""What the connections of a suite cost to hold."""

from collections.abc import Callable
from typing import Any

from scae.connections import Connections
from scae.core.typing import Tensor
from scae.kernels import Edges
from scae.lm import LanguageModel
from scae.suite import Suite


def test_an_edge_takes_twenty_bytes(
    lm: LanguageModel, make_suite: Callable[..., Suite], ragged: Callable[..., Connections]
) -> None:
    """Five numbers of four bytes: one is that of the edge list, one numbers the sources anew for the weights."""
    suite = make_suite(lm, n_features=40)
    suite.connect(ragged(suite.layout))
    connections = suite.connections
    for site in suite.sites:
        if not len(connections[site]):
            continue
        suite.virtual.weights(site)
        into: Any = suite.virtual._into(site)
        held: list[Tensor] = [connections[site].up]
        for edges in (into.edges, into.from_sources):
            assert isinstance(edges, Edges)
            held += edges.tensors
        by_place = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in held}
        pointers = sum(
            tensor.untyped_storage().nbytes()
            for tensor in (into.edges.ptr, into.from_sources.ptr, connections[site].crow)
        )
        assert sum(by_place.values()) - pointers == 20 * len(connections[site])
