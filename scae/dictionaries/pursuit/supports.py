"""What a search over a dictionary holds: for every token its features so far, their activations, and the error left.

The rows of the dictionary have norm 1 here, so that a correlation with the error is what an activation of its own would
take of it. Nothing is of size features x features; tokens x features are the correlations alone.
"""

import torch

from scae.core.typing import Bool, Float, Int, Tensor
from scae.kernels import SparseCode, Support, decode, products_at


class Supports:
    """Each token has as many slots as the largest `k`, of which it may use `k`.

    at: `[token, slot]` the feature; value: `[token, slot]` its activation, never below 0; used: whether there is one,
    at 0 and with 0 where there is none; residual: `[token, d_out]` the target less what the activations write.
    """

    at: Int[Tensor, "token slot"]
    value: Float[Tensor, "token slot"]
    used: Bool[Tensor, "token slot"]
    residual: Float[Tensor, "token d_out"]

    def __init__(
        self, target: Float[Tensor, "token d_out"], rows: Float[Tensor, "feature d_out"], k: Int[Tensor, " token"]
    ) -> None:
        slots = torch.arange(int(k.max()) if len(k) else 0, device=k.device)
        self.rows, self.residual = rows, target
        self.allowed = slots < k[:, None]
        self.at = torch.zeros_like(self.allowed, dtype=torch.int64)
        self.value = target.new_zeros(self.at.shape)
        self.used = torch.zeros_like(self.allowed)

    @classmethod
    def of(
        cls, code: SparseCode, target: Float[Tensor, "token d_out"], rows: Float[Tensor, "feature d_out"]
    ) -> "Supports":
        """The features of a code, whose activations are above 0."""
        found = cls(target, rows, code.crow.diff())
        found.used = found.allowed.clone()
        found.at = found.at.masked_scatter(found.used, code.col)
        found.become(found.value.masked_scatter(found.used, code.value))
        return found

    @property
    def slots(self) -> int:
        return self.at.shape[1]

    def correlations(self) -> Float[Tensor, "token feature"]:
        """Of the error with every row."""
        return self.residual @ self.rows.T

    def own_correlations(self) -> Float[Tensor, "token slot"]:
        """Of the error with the rows of each token's own features, 0 where a slot is not used."""
        found = products_at(self._support(self.at), self.residual, self.rows).view(self.at.shape)
        return torch.where(self.used, found, 0)

    def written(
        self, value: Float[Tensor, "token slot"], at: Int[Tensor, "token slot"] | None = None
    ) -> Float[Tensor, "token d_out"]:
        """What these activations of the features in the slots, or of those `at`, write."""
        return decode(SparseCode(self._support(self.at if at is None else at), value.flatten()), self.rows)

    def add(self, feature: Int[Tensor, " token"], wanted: Bool[Tensor, " token"]) -> None:
        """Give the first free slot to this feature, where it is wanted and there is one."""
        free = self.allowed & ~self.used
        slot = free.to(torch.uint8).argmax(1, keepdim=True)
        taken = (wanted & free.any(1))[:, None]
        self.at = self.at.scatter(1, slot, torch.where(taken, feature[:, None], self.at.gather(1, slot)))
        self.used = self.used.scatter(1, slot, taken | self.used.gather(1, slot))

    def become(self, value: Float[Tensor, "token slot"]) -> None:
        """New activations of the same features; a feature that comes to 0 leaves."""
        self.residual = self.residual - self.written(value - self.value)
        self.value, self.used = value, self.used & (value > 0)
        self.at = torch.where(self.used, self.at, 0)

    def _support(self, at: Int[Tensor, "token slot"]) -> Support:
        crow = torch.arange(0, at.numel() + 1, max(self.slots, 1), device=at.device)
        return Support(crow, at.flatten(), len(self.rows))
