"""One sparse dictionary: encoder, activation, decoder, and what keeps its features alive."""

from scae.dictionaries.activation import Activation, BatchTopK, ReLU, TopK
from scae.dictionaries.dictionary import CHUNK_MB, Dictionary
from scae.dictionaries.unit import Unit

__all__ = ["CHUNK_MB", "Activation", "BatchTopK", "Dictionary", "ReLU", "TopK", "Unit"]
