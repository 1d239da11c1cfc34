"""The types of dictionary: a file each, which puts the parts together."""

from collections.abc import Callable
from typing import Any

from scae.dictionaries.dictionary import Dictionary, Shape
from scae.dictionaries.skip import Skip
from scae.dictionaries.types import batchtopk, gated, groupmax, jumprelu, matryoshka, topk, vanilla

TYPES: dict[str, Callable[..., Dictionary]] = {
    "vanilla": vanilla.build,
    "topk": topk.build,
    "batchtopk": batchtopk.build,
    "matryoshka": matryoshka.build,
    "groupmax": groupmax.build,
    "jumprelu": jumprelu.build,
    "gated": gated.build,
}


def create(shape: Shape, *, type: str, by_token: bool = False, skip: bool = False, **settings: Any) -> Dictionary:
    """A new dictionary; raises ValueError where there is no such type, or where it takes other settings.

    by_token: every token has its own size (`scae.dictionaries.unit`); older dictionaries do not say, and have one.
    Type and settings are its `spec`: with the shape, what is needed to make one that its weights can be loaded into.
    skip: a linear map beside the features, where it is a transcoder.
    """
    if type not in TYPES:
        raise ValueError(f"no type of dictionary is called {type!r}; there are {', '.join(TYPES)}")
    try:
        dictionary = TYPES[type](shape, **settings)
    except TypeError as error:
        raise ValueError(f"settings of a dictionary of type {type}: {error}") from error
    dictionary.spec = {"type": type} | settings
    if by_token:
        dictionary.take_by_token()
        dictionary.spec["by_token"] = True
    if skip and shape.transcoder:
        dictionary.skip = Skip(shape.d_in, shape.d_out)
        dictionary.spec["skip"] = True
    return dictionary
