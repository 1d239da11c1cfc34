"""Sparse operations: a contract each, a plain-torch reference, and the fast backends."""

from scae.kernels.arrivals import Arrivals, Upstream
from scae.kernels.code import SparseCode, Support
from scae.kernels.edges import Edges
from scae.kernels.ops import (
    arrive,
    arrive_everywhere,
    arrived_by_edge,
    decode,
    edge_weights,
    encode_at,
    largest,
    products_at,
    spmm_transposed,
    use,
)

__all__ = [
    "Arrivals",
    "Edges",
    "SparseCode",
    "Support",
    "Upstream",
    "arrive",
    "arrive_everywhere",
    "arrived_by_edge",
    "decode",
    "edge_weights",
    "encode_at",
    "largest",
    "products_at",
    "spmm_transposed",
    "use",
]
