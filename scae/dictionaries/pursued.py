"""An autoencoder without an encoder: its codes are searched for (`scae.dictionaries.pursuit`), in every pass it has.

So a dictionary can be trained for the best codes that it allows, and not for those that an encoder can guess. The
search carries no gradient: what is learned is the decoder, at the features of the code. What that leaves of the error
is searched for among the dead features alone, which learn from it (AuxK).
"""

from functools import partial
from typing import NoReturn

import torch
from torch import nn

from scae.config import AuxK
from scae.core.typing import Bool, Float, Tensor
from scae.dictionaries.dictionary import Dictionary
from scae.dictionaries.encoder import Encoder
from scae.dictionaries.pursuit import search
from scae.kernels import Arrivals, SparseCode, Support


class NoEncoder(Encoder):
    """Stands where an encoder would; nothing about it can be learned, read or scaled."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    @property
    def rows(self) -> NoReturn:
        raise ValueError("a dictionary without an encoder has no direction a feature, so connections have no weight")

    def rescale(self, factor: Float[Tensor, ""]) -> None:
        """A search finds the size of activations itself."""

    def begin_as(self, other: Encoder) -> None:
        """What a dictionary is given of another is the decoder."""


class Pursued(Dictionary):
    """method, steps: see `scae.dictionaries.pursuit`; how many features a token has, its activation says."""

    def __init__(self, dictionary: Dictionary, *, method: str, steps: int) -> None:
        if dictionary.transcoder:
            raise ValueError("a search needs its target: an autoencoder reads it, a transcoder does not")
        if dictionary.activation.picked is None:
            raise ValueError("a search needs the number of features of every token, which type=topk has")
        super().__init__(NoEncoder(), dictionary.activation, dictionary.decoder, shape=dictionary.shape)
        self.method, self.steps = method, steps

    def _codes(
        self,
        shifted: Float[Tensor, "token d_in"],
        live: Bool[Tensor, " token"],
        arrivals: Arrivals | None,
        auxk: AuxK | None,
        chunk_mb: int | None,
    ) -> tuple[SparseCode, SparseCode, SparseCode | None]:
        if arrivals is not None:
            raise ValueError("nothing can arrive along connections where a code is searched for")
        rows = self.decoder.W.detach()
        find = partial(search, live=live, method=self.method, steps=self.steps, chunk_mb=chunk_mb)
        picked = self.activation.picked
        assert picked is not None
        found = find(rows, shifted, k=picked)
        code = self.bounded(found)
        dead = (self.tokens_since_fired >= auxk.dead_after).nonzero()[:, 0] if auxk else ()
        if auxk is None or not len(dead):
            return code, found, None
        with torch.no_grad():
            error = shifted - self.decoder.without_bias(code)
        silent = find(rows[dead], error, k=auxk.k)
        return code, found, SparseCode(Support(silent.crow, dead[silent.col], self.n_features), silent.value)
