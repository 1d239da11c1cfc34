"""The two ends of the stream as sites: tokens as features that write, next tokens as features that read.

    embed      f_v(t) = 1 where the token at t is v         D_v   what the embedding writes for v, less the mean of that
    unembed    pre_v(t) = E_v . P r(t) / s(t) + b_v         E_v   the column of v in W_U; pre is a logit

What the embedding writes at t is D_v + c(t), whatever the mean is taken over: c(t), the mean and what a position adds,
belongs to the base that every feature reads. Nothing here is trained.
"""

import torch
from torch import nn

from scae.core.typing import Bool, Float, Int, Tensor
from scae.dictionaries import Unit
from scae.kernels import Arrivals, SparseCode, arrive_everywhere
from scae.lm import LanguageModel, Module, Trace


class Source(nn.Module):
    """The tokens. writes: the mean of what the embedding writes, over the text that a suite is started from."""

    rows_written: Float[Tensor, "vocab d_model"]

    def __init__(self, lm: LanguageModel) -> None:
        super().__init__()
        self.register_buffer("rows_written", lm.token_rows(), persistent=False)
        self.writes = Unit(lm.paths.d_model)

    @property
    def n_features(self) -> int:
        return len(self.rows_written)

    def rows(self, reader: Module) -> Float[Tensor, "vocab d_model"]:
        return self.rows_written - self.writes.centre

    def code(self, trace: Trace) -> SparseCode:
        return one_hot(trace.tokens.flatten(), trace.live.flatten(), self.n_features, self.rows_written.dtype)

    def constant(self, trace: Trace) -> Float[Tensor, "batch pos d_model"]:
        """What the embedding writes, less the rows of the tokens where they are live."""
        rows = self.rows_written[trace.tokens] - self.writes.centre
        return torch.where(trace.live[..., None], trace.embed - rows, trace.embed)

    @torch.no_grad()
    def measure(self, tokens: Int[Tensor, " token"]) -> None:
        """Take the mean over a text."""
        self.writes.centre.copy_(self.rows_written[tokens].mean(0))


class Sink:
    """The next tokens, read as the model reads them: through its own final normalisation and unembedding."""

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm

    @property
    def n_features(self) -> int:
        return len(self._lm.paths.b_U)

    @property
    def rows(self) -> Float[Tensor, "vocab d_model"]:
        return self._lm.paths.W_U.T

    def logits(self, read: Float[Tensor, "*token d_model"], arrivals: Arrivals | None) -> Float[Tensor, "*token vocab"]:
        """arrivals: what arrives along connections, where they decide."""
        paths = self._lm.paths
        logits = read @ paths.W_U + paths.b_U
        return paths.capped(logits if arrivals is None else logits + arrive_everywhere(arrivals).view_as(logits))

    def code(self, trace: Trace) -> SparseCode:
        """The token that comes next is the one that is active: the scores of connections are means over where it is."""
        scored, following = torch.zeros_like(trace.live), torch.zeros_like(trace.tokens)
        scored[:, :-1], following[:, :-1] = trace.scored, trace.tokens[:, 1:]
        return one_hot(following.flatten(), scored.flatten(), self.n_features, self._lm.paths.W_U.dtype)


def one_hot(col: Tensor, keep: Bool[Tensor, " token"], n_features: int, dtype: torch.dtype) -> SparseCode:
    return SparseCode.from_rows(keep[:, None], col[:, None], torch.ones_like(col, dtype=dtype)[:, None], n_features)
