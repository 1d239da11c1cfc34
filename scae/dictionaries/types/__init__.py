"""The types of dictionary: a file each, which puts the parts together."""

from collections.abc import Callable
from typing import Any

from scae.dictionaries.dictionary import Dictionary, Shape
from scae.dictionaries.mlp import with_mlp
from scae.dictionaries.pursued import Pursued
from scae.dictionaries.types import batchtopk, topk, vanilla

TYPES: dict[str, Callable[..., Dictionary]] = {
    "vanilla": vanilla.build,
    "topk": topk.build,
    "batchtopk": batchtopk.build,
}
ENCODERS: dict[str, Callable[..., Dictionary]] = {"mlp": with_mlp, "pursuit": Pursued}
"""What can take the place of a linear encoder: each makes a dictionary with it of one that has the linear one."""


def create(shape: Shape, *, type: str, encoder: dict[str, Any] | None = None, **settings: Any) -> Dictionary:
    """A new dictionary; raises ValueError where there is no such type, or where it takes other settings.

    Type and settings are its `spec`: with the shape, what is needed to make one that its weights can be loaded into.
    encoder: its `kind` and settings; None: a linear one, which has none.
    """
    if type not in TYPES:
        raise ValueError(f"no type of dictionary is called {type!r}; there are {', '.join(TYPES)}")
    try:
        dictionary = TYPES[type](shape, **settings)
    except TypeError as error:
        raise ValueError(f"settings of a dictionary of type {type}: {error}") from error
    if encoder is None:
        dictionary.spec = {"type": type} | settings
        return dictionary
    kind = encoder.get("kind")
    if kind not in ENCODERS:
        raise ValueError(f"no kind of encoder is called {kind!r}; there are linear, {', '.join(ENCODERS)}")
    own = {name: value for name, value in encoder.items() if name != "kind"}
    try:
        dictionary = ENCODERS[kind](dictionary, **own)
    except TypeError as error:
        raise ValueError(f"settings of an encoder of kind {kind}: {error}") from error
    dictionary.spec = {"type": type, "encoder": encoder} | settings
    return dictionary
