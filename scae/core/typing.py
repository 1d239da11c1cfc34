"""The axis legend of the whole project, used in every jaxtyping shape and every einsum.

| name      | einsum | meaning                                                             |
|-----------|--------|---------------------------------------------------------------------|
| batch     | b      | windows of text                                                     |
| pos       | t      | positions of a window; `query` (q) and `key` (k) in attention       |
| token     | n      | batch x pos, flattened                                              |
| d_model   | d      | residual stream                                                     |
| head      | h      | attention heads; `kv_head` where keys and values have fewer of them |
| d_head    | r      | inside a head                                                       |
| feature   | f      | features of one dictionary; `up` and `down` at the ends of an edge  |
| nnz       | p      | stored entries of a sparse code                                     |
| edge      | e      | connections into one site                                           |
| vocab     | v      | next-token distribution                                             |
"""

from jaxtyping import Bool, Float, Int, Int32
from torch import Tensor

Stream = Float[Tensor, "batch pos d_model"]
"""A residual stream, or what one module writes to it."""

Live = Bool[Tensor, "batch pos"]
"""Text: neither a prepended BOS, nor a separator, nor padding. Every other position keeps the model's own values."""

__all__ = ["Bool", "Float", "Int", "Int32", "Live", "Stream", "Tensor"]
