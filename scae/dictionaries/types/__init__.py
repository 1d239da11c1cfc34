"""The types of dictionary: a file each, which puts the parts together."""

from collections.abc import Callable
from typing import Any

from scae.dictionaries.dictionary import Dictionary, Shape
from scae.dictionaries.mlp import with_mlp
from scae.dictionaries.pursued import Pursued
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
ENCODERS: dict[str, Callable[..., Dictionary]] = {"mlp": with_mlp, "pursuit": Pursued}
"""What can take the place of a linear encoder: each makes a dictionary with it of one that has the linear one."""


def create(
    shape: Shape,
    *,
    type: str,
    encoder: dict[str, Any] | None = None,
    by_token: bool = False,
    skip: bool = False,
    **settings: Any,
) -> Dictionary:
    """A new dictionary; raises ValueError where there is no such type, or where it takes other settings.

    by_token: every token has its own size (`scae.dictionaries.unit`); older dictionaries do not say, and have one.
    Type and settings are its `spec`: with the shape, what is needed to make one that its weights can be loaded into.
    encoder: its `kind` and settings; None: a linear one, which has none.
    skip: a linear map beside the features, where it is a transcoder.
    """
    if type not in TYPES:
        raise ValueError(f"no type of dictionary is called {type!r}; there are {', '.join(TYPES)}")
    try:
        dictionary = TYPES[type](shape, **settings)
    except TypeError as error:
        raise ValueError(f"settings of a dictionary of type {type}: {error}") from error
    dictionary.spec = {"type": type} | settings
    if encoder is not None:
        dictionary = _with_encoder(dictionary, **encoder)
        dictionary.spec = {"type": type, "encoder": encoder} | settings
    if by_token:
        dictionary.take_by_token()
        dictionary.spec["by_token"] = True
    if skip and shape.transcoder:
        dictionary.skip = Skip(shape.d_in, shape.d_out)
        dictionary.spec["skip"] = True
    return dictionary


def _with_encoder(dictionary: Dictionary, *, kind: str | None = None, **settings: Any) -> Dictionary:
    """The same with another encoder in the place of its linear one."""
    if kind not in ENCODERS:
        raise ValueError(f"no kind of encoder is called {kind!r}; there are linear, {', '.join(ENCODERS)}")
    try:
        return ENCODERS[kind](dictionary, **settings)
    except TypeError as error:
        raise ValueError(f"settings of an encoder of kind {kind}: {error}") from error
