"""One sparse dictionary: an autoencoder of a module's output, or a transcoder from a module's input to its output.

u    = (x - centre) / scale           in the unit of what it reads (see `scae.dictionaries.unit`)
pre  = W_enc (u - b_dec) + b_enc      an autoencoder: u and the reconstruction live in the same space
pre  = W_enc u + b_enc                a transcoder: never subtract an output bias from an input
f    = min(activation(pre), ceiling)
yhat = (f W_dec + b_dec) scale + centre       in the unit of what it writes
"""

from collections.abc import Iterator

import torch
from torch import nn

from scae.config import AnySae, AuxK, TopKSae, VanillaSae
from scae.dictionaries.activation import Activation, BatchTopK, ReLU, TopK
from scae.dictionaries.unit import Unit
from scae.kernels import Arrivals, SparseCode, arrive, decode, encode_at
from scae.typing import Bool, Float, Int, Tensor

CHUNK_MB = 32
"""What `Dictionary.sparsify` may hold where nobody says how much; experiments say `trainer.chunk_mb`."""


class Dictionary(nn.Module):
    """Encoder, activation and decoder of one site.

    W_enc: `[feature, d_model]` encoder rows; b_enc: `[feature]`; W_dec: `[feature, d_model]` decoder rows; b_dec:
    `[d_model]`, all in the units `reads` and `writes`, which are one for an autoencoder; ceiling: `[feature]` no
    activation exceeds it, infinite until it is learned; tokens_since_fired: `[feature]`, counted over live tokens, a
    feature fires with a value > 0 only.
    """

    ceiling: Float[Tensor, " feature"]
    tokens_since_fired: Int[Tensor, " feature"]

    def __init__(self, *, d_model: int, n_features: int, activation: Activation, transcoder: bool) -> None:
        super().__init__()
        rows = torch.nn.functional.normalize(torch.randn(n_features, d_model), dim=1)
        self.W_enc = nn.Parameter(rows.clone())
        self.b_enc = nn.Parameter(torch.zeros(n_features))
        self.W_dec = nn.Parameter(rows)
        self.b_dec = nn.Parameter(torch.zeros(d_model))
        self.activation = activation
        self.transcoder = transcoder
        self.reads, self.writes = Unit(d_model), Unit(d_model)
        self.register_buffer("ceiling", torch.full((n_features,), torch.inf))
        self.register_buffer("tokens_since_fired", torch.zeros(n_features, dtype=torch.int64))

    @classmethod
    def from_config(cls, sae: AnySae, *, d_model: int, transcoder: bool) -> "Dictionary":
        activation: Activation
        if isinstance(sae, VanillaSae):
            activation = ReLU()
        elif isinstance(sae, TopKSae):
            activation = TopK(k=sae.k)
        else:
            activation = BatchTopK(k=sae.k, threshold_rate=sae.threshold_rate)
        return cls(d_model=d_model, n_features=sae.size(d_model), activation=activation, transcoder=transcoder)

    @property
    def n_features(self) -> int:
        return self.W_enc.shape[0]

    def shift(self, x: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """What the encoder rows are multiplied with. The gradient of b_dec comes from `differentiable`."""
        u = self.reads.enter(x)
        return u if self.transcoder else u - self.b_dec.detach()

    @torch.no_grad()
    def preactivations(
        self, shifted: Float[Tensor, "token d_model"], arrivals: Arrivals | None = None
    ) -> Float[Tensor, "token feature"]:
        """All of them, without gradient: those of the few that are kept come from `differentiable`."""
        if arrivals is None:
            return torch.addmm(self.b_enc, shifted, self.W_enc.T)
        return arrive(arrivals).add_(self.b_enc).addmm_(shifted, self.W_enc.T)

    def encode(self, x: Float[Tensor, "token d_model"], live: Bool[Tensor, " token"]) -> SparseCode:
        """The code of the live tokens of `x`."""
        return self.sparsify(self.shift(x), live)[0]

    def sparsify(
        self,
        shifted: Float[Tensor, "token d_model"],
        live: Bool[Tensor, " token"],
        arrivals: Arrivals | None = None,
        *,
        auxk: AuxK | None = None,
        chunk_mb: int = CHUNK_MB,
    ) -> tuple[SparseCode, SparseCode | None]:
        """The code of the live tokens, and that of the dead features where `auxk` asks for one and there are any.

        arrivals: what arrives along connections. chunk_mb: tokens are taken in parts whose pre-activations, and what
        the connections need on the way to them, stay below this size (but for one window, or a batch threshold).
        """
        codes, dead_codes = [], []
        for part in self._parts(len(shifted), arrivals, chunk_mb):
            pre = self.preactivations(shifted[part], arrivals.tokens(part.start, part.stop) if arrivals else None)
            codes.append(self.activation(pre, live[part]))
            dead = self.dead_code(pre, live[part], k=auxk.k, dead_after=auxk.dead_after) if auxk else None
            dead_codes += [] if dead is None else [dead]
        code = self.bounded(self.differentiable(SparseCode.joined(codes), shifted, arrivals))
        if not dead_codes:
            return code, None
        return code, self.differentiable(SparseCode.joined(dead_codes), shifted, arrivals)

    def _parts(self, n_tokens: int, arrivals: Arrivals | None, chunk_mb: int) -> Iterator[slice]:
        window, heads = (arrivals.window, arrivals.weight.shape[1]) if arrivals else (1, 0)
        bytes_a_token = self.W_enc.element_size() * self.n_features * (1 + heads)
        step = max(1, chunk_mb * 2**20 // (bytes_a_token * window)) * window
        if not self.activation.by_token:
            step = max(n_tokens, 1)
        for start in range(0, max(n_tokens, 1), step):
            yield slice(start, min(start + step, n_tokens))

    def differentiable(
        self, code: SparseCode, shifted: Float[Tensor, "token d_model"], arrivals: Arrivals | None = None
    ) -> SparseCode:
        """The same code, its values functions of `shifted`, of the parameters, and of what arrived along connections.

        An autoencoder's b_dec acts as a bias of -W_enc b_dec: so its gradient is one product over all tokens, and what
        x was read from gets none where it needs none.
        """
        bias: Tensor = self.b_enc
        if not self.transcoder:
            bias = torch.addmv(bias, self.W_enc.detach(), self.b_dec, alpha=-1)
        return code.with_values(encode_at(code, shifted, self.W_enc, bias, arrivals))

    def bounded(self, code: SparseCode) -> SparseCode:
        """No activation above its ceiling; one that is cut there has no gradient."""
        return code.with_values(code.value.clamp(max=self.ceiling[code.col]))

    def decode(self, code: SparseCode) -> Float[Tensor, "token d_model"]:
        return self.writes.leave(decode(code, self.W_dec) + self.b_dec)

    @property
    def constant(self) -> Float[Tensor, " d_model"]:
        """What is written when no feature fires."""
        return self.writes.leave(self.b_dec)

    def revive(self, dead: SparseCode) -> Float[Tensor, "token d_model"]:
        """What dead features make of the error: no bias, the error has none to explain.

        A negative pre-activation adds nothing, as it would if the feature were alive, but its gradient passes (straight
        through the ReLU): it rises where the feature's direction lies in the error, until the feature fires there.
        """
        straight_through = dead.value + (dead.value.clamp_min(0) - dead.value).detach()
        return decode(dead.with_values(straight_through), self.W_dec) * self.writes.scale

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

    @torch.no_grad()
    def project_decoder_gradient(self) -> None:
        """Remove from the decoder's gradient what would change the norm of its rows."""
        if self.W_dec.grad is not None:
            rows = torch.nn.functional.normalize(self.W_dec, dim=1)
            self.W_dec.grad -= (self.W_dec.grad * rows).sum(1, keepdim=True) * rows

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Scale every decoder row to norm 1."""
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12))
