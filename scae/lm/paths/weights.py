"""The weights along the frozen paths of a model, the order of its modules, and its logits."""

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch

from scae.core.typing import Float, Tensor
from scae.lm.modules import EMBED, UNEMBED, Levels, Module, levels


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

    @cached_property
    def levels(self) -> Levels:
        return levels(self.n_layers, parallel=self.parallel)

    @cached_property
    def modules(self) -> tuple[Module, ...]:
        """Every module of a layer, in order."""
        return tuple(module for level in self.levels for module in level)

    @property
    def order(self) -> Levels:
        """All modules: what comes before the layers, the layers, what comes after them."""
        return ((EMBED,), *self.levels, (UNEMBED,))

    def to(self, target: torch.device | torch.dtype) -> "LinearPaths":
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: value.to(target) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **moved)

    def centre(self, rows: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """P: subtract the mean over d_model where the normalisation does."""
        return rows - rows.mean(-1, keepdim=True) if self.centred else rows

    def scale(self, residual: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows 1"]:
        """By what the final normalisation divides."""
        return (self.centre(residual).square().mean(-1, keepdim=True) + self.eps).sqrt()

    def logits(self, residual: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows vocab"]:
        """Next-token logits of a final residual stream; the final normalisation and the cap are live."""
        x = self.centre(residual)
        return self.capped(x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) @ self.W_U + self.b_U)

    def capped(self, logits: Float[Tensor, "*rows vocab"]) -> Float[Tensor, "*rows vocab"]:
        return logits if self.logit_cap is None else self.logit_cap * torch.tanh(logits / self.logit_cap)
