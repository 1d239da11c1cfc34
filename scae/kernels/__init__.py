"""Sparse operations: a contract each, a plain-torch reference, and the fast backends."""

from scae.kernels.code import SparseCode, Support
from scae.kernels.edges import Edges
from scae.kernels.ops import decode, edge_weights, encode_at, largest, spread, tally, use

__all__ = ["Edges", "SparseCode", "Support", "decode", "edge_weights", "encode_at", "largest", "spread", "tally", "use"]
