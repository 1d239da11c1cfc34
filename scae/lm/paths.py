"""The frozen linear paths of the model: how a residual stream reaches a dictionary and the logits.

With its own scales s and attention patterns A held fixed, every module's reading of the stream is linear:

    an MLP reads                 x(t) = P r(t) / s(t)
    an attention output is       x(q) = sum_h sum_k A_h(q,k) (P r(k) / s(k)) W_V_h W_O_h + b_O

P subtracts the mean over d_model where the normalisation does (LayerNorm), and is the identity where it does not
(RMSNorm). Where outputs are normalised too (Gemma 2, OLMo 2), A_h(q,k) is the attention pattern over the frozen scale
of that normalisation at q. The virtual weight between a decoder row D_j and an encoder row E_i is what D_j moved along
this path gives:

    MLP                          E_i . P D_j
    attention, head h            (W_O_h E_i) . (P D_j W_V_h), a product in d_head

The weights are those of the folded model: normalisation weights and value biases live in W_V, W_O, W_U and b_O.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from scae.lm.trace import Trace
from scae.sites import Site
from scae.typing import Float, Stream, Tensor


@dataclass(frozen=True)
class LinearPaths:
    """The weights along the paths. W_V: `[layer, kv_head, d_model, d_head]`; W_O: `[layer, head, d_head, d_model]`;
    b_O: `[layer, d_model]`; W_U: `[d_model, vocab]`; b_U: `[vocab]`; centred: P subtracts the mean; eps: of the final
    normalisation; parallel: attention and MLP of a layer read the same stream; logit_cap: logits are kept below it by
    a tanh, None where they are not."""

    W_V: Float[Tensor, "layer kv_head d_model d_head"]
    W_O: Float[Tensor, "layer head d_head d_model"]
    b_O: Float[Tensor, "layer d_model"]
    W_U: Float[Tensor, "d_model vocab"]
    b_U: Float[Tensor, " vocab"]
    centred: bool
    eps: float
    parallel: bool
    logit_cap: float | None = None

    @property
    def n_layers(self) -> int:
        return self.W_V.shape[0]

    @property
    def d_model(self) -> int:
        return self.W_V.shape[2]

    @property
    def modules(self) -> tuple[Site, ...]:
        """Every module that writes to the stream, in order."""
        return tuple(Site(layer, kind) for layer in range(self.n_layers) for kind in ("attn", "mlp"))

    def to(self, target: torch.device | torch.dtype) -> "LinearPaths":
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: value.to(target) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **moved)

    def centre(self, rows: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """P: subtract the mean over d_model where the normalisation does."""
        return rows - rows.mean(-1, keepdim=True) if self.centred else rows

    def read(self, site: Site, stream: Stream, trace: Trace) -> Stream:
        """What the dictionary of `site` reads when the residual stream is `stream`."""
        x = self.centre(stream) / trace.scales[site]
        if site.kind == "mlp":
            return x
        values = torch.einsum("btd,hdr->bhtr", x, self.W_V[site.layer])
        moved = _pattern(trace, site) @ self._per_head(values, axis=1)
        return torch.einsum("bhtr,hrd->btd", moved, self.W_O[site.layer]) + self.b_O[site.layer]

    def readers(self, site: Site, encoder: Float[Tensor, "down d_model"]) -> Float[Tensor, "down head r"]:
        """The encoder rows of `site` at the downstream end of a virtual weight; one head of width d_model at an MLP."""
        if site.kind == "mlp":
            return self.centre(encoder)[:, None]
        heads = self.W_O[site.layer]
        return (encoder @ heads.flatten(0, 1).T).view(len(encoder), *heads.shape[:2])

    def writers(self, site: Site, decoder: Float[Tensor, "up d_model"]) -> Float[Tensor, "up head r"]:
        """Upstream decoder rows as `site` meets them at the upstream end of a virtual weight.

        P is symmetric: it is applied to the reader, or to W_V, of which there is less than of decoder rows.
        """
        if site.kind == "mlp":
            return decoder[:, None]
        heads = self.centre(self.W_V[site.layer].transpose(1, 2))
        return self._per_head((decoder @ heads.flatten(0, 1).T).view(len(decoder), *heads.shape[:2]), axis=1)

    def mover(
        self, site: Site, trace: Trace, unit: Float[Tensor, ""]
    ) -> Float[Tensor, " token"] | Float[Tensor, "batch query key head"]:
        """What takes contributions made at each position, by head, to where the features of `site` receive them.

        One factor a token at an MLP; how much of each key, divided by its scale, reaches each query at attention. All
        divided by `unit`, the size of what the dictionary takes for 1.
        """
        batch, pos = trace.live.shape
        scales = trace.scales[site] * unit
        if site.kind == "mlp":
            return scales.reciprocal().flatten()
        pattern = _pattern(trace, site) / scales.reshape(batch, 1, 1, pos)
        return pattern.permute(0, 2, 3, 1).contiguous()

    def logits(self, residual: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows vocab"]:
        """Next-token logits of a final residual stream; the final normalisation and the cap are live."""
        x = self.centre(residual)
        logits = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) @ self.W_U + self.b_U
        return logits if self.logit_cap is None else self.logit_cap * torch.tanh(logits / self.logit_cap)

    def _per_head(self, values: Tensor, *, axis: int) -> Tensor:
        """Share each key-value head between the heads that read it (grouped-query attention)."""
        return values.repeat_interleave(self.W_O.shape[1] // self.W_V.shape[1], dim=axis)


def _pattern(trace: Trace, site: Site) -> Float[Tensor, "batch head query key"]:
    if trace.patterns is None:
        raise ValueError(f"the trace holds no attention patterns, which {site} needs: trace(..., patterns=True)")
    return trace.patterns[site.layer]
