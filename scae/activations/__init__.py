"""The model's activations, live or stored: to training one sequence of batches, each with its clean run.

    live     a batch is windows of tokens, and the model runs on them            scae.data.WindowModule
    stored   a batch is tokens in any order, and what the sites read and wrote   scae.activations.StoredModule

Both are `scae.data.Steps`, and `batch.trace(lm)` is the clean run on a batch: a training step does not know which it
is. A store serves the plain pass alone: nothing between the sites is kept, and no token has neighbours.
"""

from scae.activations.module import StoredBatch, StoredModule
from scae.activations.store import Store
from scae.activations.write import Drawn, Writer

__all__ = ["Drawn", "Store", "StoredBatch", "StoredModule", "Writer"]
