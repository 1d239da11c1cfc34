"""One sparse dictionary: an autoencoder of a module's output, or a transcoder from a module's input to its output.

u    = (x - centre) / size            in the unit of what it reads (see `scae.dictionaries.unit`)
pre  = W_enc (u - b_dec) + b_enc      an autoencoder: u and the reconstruction live in the same space
pre  = W_enc u + b_enc                a transcoder: never subtract an output bias from an input
f    = min(activation(pre), ceiling)
yhat = (f W_dec + b_dec) size + centre        in the unit of what it writes; with a skip, of a transcoder alone,
yhat = (f W_dec + b_dec + u W_skip) size + centre               (Paulo et al. 2025)

Where every token has its own size, an autoencoder multiplies by the size of what it has read. A transcoder writes
something else than it reads: it takes what it reads by token, and writes in the one unit of all that is written.

W_enc and b_enc are W and b of its encoder, W_dec and b_dec those of its decoder.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from scae.config import AuxK
from scae.core.typing import Bool, Float, Int, Tensor
from scae.dictionaries.activation import Activation
from scae.dictionaries.crosslayer import CrosslayerDecoder
from scae.dictionaries.decoder import Decoder
from scae.dictionaries.encoder import Encoder
from scae.dictionaries.skip import Skip
from scae.dictionaries.unit import Size, Unit
from scae.kernels import Arrivals, SparseCode


@dataclass(frozen=True)
class Shape:
    """n_features; d_in: of what is read; d_out: of what is written; transcoder: the two are different things; further:
    the layers behind its own whose MLPs it writes to as well (`scae.dictionaries.crosslayer`)."""

    n_features: int
    d_in: int
    d_out: int
    transcoder: bool
    further: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.d_in != self.d_out and not self.transcoder:
            raise ValueError(f"an autoencoder writes what it reads, got d_in={self.d_in} and d_out={self.d_out}")


class Encoded(NamedTuple):
    """The code of the live tokens, and the auxiliary quantities that a loss asked for, as far as there are any:

    penalty     `[nnz]` what a sparsity loss counts of each entry of the code
    partial     `[code, token, d_out]` what its type also reconstructs the target with (`Activation.partial`)
    revived     `[token, d_out]` what dead features make of the error (AuxK, Gao et al. 2024, appendix A.2)
    """

    code: SparseCode
    aux: dict[str, Tensor]


class Dictionary(nn.Module):
    """Encoder, activation and decoder of one site.

    reads, writes: the units of what is read and written, which are one for an autoencoder; ceiling: `[feature]` no
    activation exceeds it, infinite until it is learned; tokens_since_fired: `[feature]`, counted over live tokens, a
    feature fires with a value > 0 only; skip: None, or what a transcoder writes beside its features; spec: its type and
    settings, see `scae.dictionaries.create`.
    """

    ceiling: Float[Tensor, " feature"]
    tokens_since_fired: Int[Tensor, " feature"]
    spec: dict[str, Any]
    skip: Skip | None

    def __init__(self, encoder: Encoder, activation: Activation, decoder: Decoder, *, shape: Shape) -> None:
        super().__init__()
        self.encoder, self.activation, self.decoder = encoder, activation, decoder
        self.shape = shape
        self.skip = None
        self.reads, self.writes = Unit(shape.d_in), Unit(shape.d_out)
        self.register_buffer("ceiling", torch.full((shape.n_features,), torch.inf))
        self.register_buffer("tokens_since_fired", torch.zeros(shape.n_features, dtype=torch.int64))

    @classmethod
    def linear(cls, shape: Shape, activation: Activation) -> "Dictionary":
        """Linear encoder and decoder, with random rows of norm 1, the same ones where their widths allow it."""
        writes = torch.nn.functional.normalize(torch.randn(shape.n_features, shape.d_out), dim=1)
        reads = writes
        if shape.d_in != shape.d_out:
            reads = torch.nn.functional.normalize(torch.randn(shape.n_features, shape.d_in), dim=1)
        decoder = CrosslayerDecoder(writes, shape.further) if shape.further else Decoder(writes)
        return cls(Encoder(reads), activation, decoder, shape=shape)

    def take_by_token(self) -> None:
        """Let every token that is read have a size of its own."""
        self.reads.by_token, self.writes.by_token = True, not self.transcoder

    @property
    def n_features(self) -> int:
        return self.shape.n_features

    @property
    def transcoder(self) -> bool:
        return self.shape.transcoder

    def learned(self) -> Iterator[tuple[nn.Parameter, float]]:
        """Its parameters, and what the rate of each is multiplied by."""
        deep = {id(parameter): factor for parameter, factor in self.encoder.deep()}
        for parameter in self.parameters():
            yield parameter, deep.get(id(parameter), 1.0)

    def shift(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        """What the encoder is applied to. The gradient of an autoencoder's b_dec comes from `_differentiable`."""
        u = self.reads.enter(x)
        return u if self.transcoder else u - self.decoder.b.detach()

    def size(self, x: Float[Tensor, "token d_in"]) -> Size:
        """What counts as 1 in what is written for these tokens, which `reconstruct` and `decode` are told."""
        return self.writes.size(x)

    def encode(self, x: Float[Tensor, "token d_in"], live: Bool[Tensor, " token"]) -> SparseCode:
        """The code of the live tokens of `x`."""
        return self.sparsify(self.shift(x), live)

    def sparsify(
        self, shifted: Float[Tensor, "token d_in"], live: Bool[Tensor, " token"], *, chunk_mb: int | None = None
    ) -> SparseCode:
        """The code of the live tokens. chunk_mb: see `reconstruct`."""
        return self._codes(shifted, live, None, None, chunk_mb)[0]

    def reconstruct(
        self,
        shifted: Float[Tensor, "token d_in"],
        live: Bool[Tensor, " token"],
        arrivals: Arrivals | None = None,
        *,
        size: Size | None = None,
        aux: Collection[str] = (),
        auxk: AuxK | None = None,
        chunk_mb: int | None = None,
    ) -> tuple[Float[Tensor, "token d_out"], Encoded]:
        """What is written, the code of the live tokens, and the auxiliary quantities named by `aux`.

        arrivals: what arrives along connections; size: see `size`, needed where tokens differ in it; auxk: which
        features count as dead, and how many of them revive at a token. chunk_mb: tokens are taken in parts whose
        pre-activations, and what the connections need on the way to them, stay below this size (but for one window, or
        a batch threshold); None: all at once.

        The site is decoded before its dead features are: decoder rows have gradients from both, and the sum of
        gradients is rounded in the order of use.
        """
        code, pre, dead = self._codes(shifted, live, arrivals, auxk if "revived" in aux else None, chunk_mb)
        reconstruction = self.decode(code, size)
        skipped = None if self.skip is None else self.skip(shifted) * self.writes.scale
        if skipped is not None:
            reconstruction = reconstruction + skipped
        found = {}
        if "penalty" in aux and (penalty := self.activation.penalty(code, pre)) is not None:
            found["penalty"] = penalty
        if "partial" in aux and (codes := self.activation.partial(code, pre)):
            found["partial"] = self._partial(codes, skipped, size)
        if dead is not None:
            found["revived"] = self.revive(dead, size)
        return reconstruction, Encoded(code, found)

    def _codes(
        self,
        shifted: Float[Tensor, "token d_in"],
        live: Bool[Tensor, " token"],
        arrivals: Arrivals | None,
        auxk: AuxK | None,
        chunk_mb: int | None,
    ) -> tuple[SparseCode, SparseCode, SparseCode | None]:
        """The code, the pre-activations that it was made from, and those of the dead features where `auxk` asks for
        some and there are any."""
        kept, dead_kept = [], []
        for part, pre in self.preactivations(shifted, arrivals, chunk_mb=chunk_mb):
            kept.append(self.activation.support(pre, live[part]))
            dead = self.dead_code(pre, live[part], k=auxk.k, dead_after=auxk.dead_after) if auxk else None
            dead_kept += [] if dead is None else [dead]
        pre_kept = self._differentiable(kept, shifted, arrivals)
        code = self.bounded(self.activation(pre_kept))
        return code, pre_kept, self._differentiable(dead_kept, shifted, arrivals) if dead_kept else None

    def preactivations(
        self, shifted: Float[Tensor, "token d_in"], arrivals: Arrivals | None, *, chunk_mb: int | None
    ) -> Iterator[tuple[slice, Float[Tensor, "token feature"]]]:
        """All of them, without gradient, a run of tokens at a time (see `reconstruct`)."""
        for part in self._parts(len(shifted), arrivals, chunk_mb):
            arrived = arrivals.tokens(part.start, part.stop) if arrivals else None
            yield part, self.encoder.preactivations(shifted[part], arrived)

    def _parts(self, n_tokens: int, arrivals: Arrivals | None, chunk_mb: int | None) -> Iterator[slice]:
        window, heads = (arrivals.window, arrivals.weight.shape[1]) if arrivals else (1, 0)
        bytes_a_token = self.decoder.W.element_size() * self.n_features * (1 + heads)
        step = max(n_tokens, 1)
        if chunk_mb is not None and self.activation.by_token:
            step = max(1, chunk_mb * 2**20 // (bytes_a_token * window)) * window
        for start in range(0, max(n_tokens, 1), step):
            yield slice(start, min(start + step, n_tokens))

    def _differentiable(
        self, parts: list[SparseCode], shifted: Float[Tensor, "token d_in"], arrivals: Arrivals | None
    ) -> SparseCode:
        """The pre-activations that were kept, with their gradients."""
        subtracted = None if self.transcoder else self.decoder.b
        return self.encoder.differentiable(SparseCode.joined(parts), shifted, arrivals, subtracted=subtracted)

    def bounded(self, code: SparseCode) -> SparseCode:
        """No activation above its ceiling; one that is cut there has no gradient."""
        return code.with_values(code.value.clamp(max=self.ceiling[code.col]))

    def decode(self, code: SparseCode, size: Size | None = None) -> Float[Tensor, "token d_out"]:
        return self.writes.leave(self.decoder(code), size)

    def beyond(self, code: SparseCode) -> Iterator[tuple[int, Float[Tensor, "token d_out"]]]:
        """What it adds to what is written at the MLPs of later layers, by layer."""
        for layer, wrote in self.decoder.beyond(code):
            yield layer, wrote * self.writes.scale

    def _partial(
        self, codes: list[SparseCode], skipped: Float[Tensor, "token d_out"] | None, size: Size | None
    ) -> Float[Tensor, "code token d_out"]:
        learns = self.activation.teaches_decoder
        decode = self.decoder if learns else self.decoder.frozen
        written = torch.stack([self.writes.leave(decode(code), size) for code in codes])
        if skipped is None:
            return written
        return written + (skipped if learns else skipped.detach())

    @property
    def constant(self) -> Float[Tensor, " d_out"]:
        """What is written when no feature fires; raises ValueError where that depends on the token."""
        return self.writes.leave(self.decoder.b)

    def revive(self, dead: SparseCode, size: Size | None = None) -> Float[Tensor, "token d_out"]:
        """What dead features make of the error: no bias, the error has none to explain.

        A negative pre-activation adds nothing, as it would if the feature were alive, but its gradient passes (straight
        through the ReLU): it rises where the feature's direction lies in the error, until the feature fires there.
        """
        straight_through = dead.value + (dead.value.clamp_min(0) - dead.value).detach()
        size = self.writes.fixed if size is None else size
        return self.decoder.without_bias(dead.with_values(straight_through)) * size

    @torch.no_grad()
    def dead_code(
        self, pre: Float[Tensor, "token feature"], live: Bool[Tensor, " token"], *, k: int, dead_after: int
    ) -> SparseCode | None:
        """The k largest pre-activations among dead features, whatever their sign; None while no feature is dead.

        AuxK (Gao et al. 2024, appendix A.2). A dead feature's pre-activations are mostly negative, so asking for
        positive ones would leave most of the dead without a gradient.
        """
        dead = (self.tokens_since_fired >= dead_after).nonzero()[:, 0]
        if not len(dead):
            return None
        values, at = pre[:, dead].topk(min(k, len(dead)), dim=1, sorted=False)
        return SparseCode.from_rows(live[:, None].expand_as(values), dead[at], values, self.n_features)

    @torch.no_grad()
    def count_firing(self, fired: Bool[Tensor, " feature"], n_live: int) -> None:
        """Advance the clocks of silent features by the `n_live` tokens on which these features `fired`."""
        self.tokens_since_fired += n_live
        self.tokens_since_fired[fired] = 0
