"""Sparse dictionaries: their parts, their units, and the types that put parts together."""

from scae.dictionaries.activation import Activation, Rule
from scae.dictionaries.annealing import Picking
from scae.dictionaries.decoder import Decoder
from scae.dictionaries.dictionary import Dictionary, Encoded, Shape
from scae.dictionaries.encoder import Encoder
from scae.dictionaries.mlp import MlpEncoder
from scae.dictionaries.pursued import Pursued
from scae.dictionaries.pursuit import pursue, refine
from scae.dictionaries.types import create
from scae.dictionaries.types.batchtopk import BatchTopK
from scae.dictionaries.types.topk import TopK
from scae.dictionaries.types.vanilla import ReLU
from scae.dictionaries.unit import Unit

__all__ = [
    "Activation",
    "BatchTopK",
    "Decoder",
    "Dictionary",
    "Encoded",
    "Encoder",
    "MlpEncoder",
    "Picking",
    "Pursued",
    "ReLU",
    "Rule",
    "Shape",
    "TopK",
    "Unit",
    "create",
    "pursue",
    "refine",
]
