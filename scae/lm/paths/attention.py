"""Through the heads of an attention, its pattern A frozen:

y(q) = sum_h sum_k A_h(q,k) (P r(k) / s(k)) W_V_h W_O_h + b_O
"""

import torch

from scae.core.typing import Float, Stream, Tensor
from scae.lm.paths.path import Path
from scae.lm.trace import Trace


class Attention(Path):
    """To the output of its module. Virtual weights are products in d_head."""

    moves = True

    @property
    def n_heads(self) -> int:
        return self.weights.W_O.shape[1]

    def read(self, stream: Stream, trace: Trace) -> Stream:
        x = self.weights.centre(stream) / self.scales(trace)
        values = torch.einsum("btd,hdr->bhtr", x, self._W_V)
        moved = self._pattern(trace) @ self._per_head(values, axis=1)
        return torch.einsum("bhtr,hrd->btd", moved, self._W_O) + self.weights.b_O[self.module.layer]

    def readers(self, encoder: Float[Tensor, "down d_model"]) -> Float[Tensor, "down head r"]:
        return (encoder @ self._W_O.flatten(0, 1).T).view(len(encoder), *self._W_O.shape[:2])

    def writers(self, decoder: Float[Tensor, "up d_model"]) -> Float[Tensor, "up head r"]:
        """P is symmetric: it is applied to W_V, of which there is less than of decoder rows."""
        heads = self.weights.centre(self._W_V.transpose(1, 2))
        return self._per_head((decoder @ heads.flatten(0, 1).T).view(len(decoder), *heads.shape[:2]), axis=1)

    def mover(self, trace: Trace, unit: Float[Tensor, ""]) -> Float[Tensor, "batch query key head"]:
        """How much of each key, divided by its scale, reaches each query."""
        batch, pos = trace.live.shape
        scales = self.scales(trace) * unit
        pattern = self._pattern(trace) / scales.reshape(batch, 1, 1, pos)
        return pattern.permute(0, 2, 3, 1).contiguous()

    def move_back(
        self,
        weights: Float[Tensor, "token down"],
        scales: Float[Tensor, "batch pos 1"],
        pattern: Float[Tensor, "batch head query key"] | None,
    ) -> Float[Tensor, "token head down"]:
        assert pattern is not None
        moved = torch.einsum("bhqk,bqf->bkhf", pattern, weights.view(*scales.shape[:2], -1))
        return (moved / scales[..., None]).flatten(0, 1)

    @property
    def _W_V(self) -> Float[Tensor, "kv_head d_model d_head"]:
        return self.weights.W_V[self.module.layer]

    @property
    def _W_O(self) -> Float[Tensor, "head d_head d_model"]:
        return self.weights.W_O[self.module.layer]

    def _pattern(self, trace: Trace) -> Float[Tensor, "batch head query key"]:
        if trace.patterns is None:
            raise ValueError(
                f"the trace holds no attention patterns, which {self.module} needs: trace(..., patterns=True)"
            )
        return trace.patterns[self.module.layer]

    def _per_head(self, values: Tensor, *, axis: int) -> Tensor:
        """Share each key-value head between the heads that read it (grouped-query attention)."""
        return values.repeat_interleave(self.n_heads // self.weights.W_V.shape[1], dim=axis)
