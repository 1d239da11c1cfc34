"""Muon for matrices (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon), Adam for the rest.

With m, the running mean of the gradient g:

W <- W - 0.2 lr sqrt(max(rows, columns)) O      O = U V^T of (1 - momentum) g + momentum m = U S V^T, nearly

The factor makes a step as long, by entry, as Adam's usually is (Liu et al. 2025, "Muon is Scalable for LLM Training"),
so that one rate serves both. `torch.optim.Muon` does the same in bfloat16, where the last bit of a gradient, which
another number of devices changes, moves the third digit of a step.
"""

from collections.abc import Callable
from typing import Any

import torch

from scae.config import MuonOptimizer
from scae.core.typing import Float, Tensor
from scae.training.optimizers.averaged import Averaged
from scae.training.optimizers.learner import Group, Learner, loss_of

STEPS = 5
A, B, C = 3.4445, -4.7750, 2.0315  # of Jordan et al.: what is left of S is in 0.7 .. 1.2 for S > 0.01, or so


def orthogonal(matrix: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """U V^T of U S V^T, nearly: Newton-Schulz iterations X <- (A + B X X^T + C (X X^T)^2) X; 0 of 0.

    What each multiplies by is a polynomial of X X^T, so all of them are taken in the smaller of the two sizes: 36 d^3
    operations instead of 85 d^3 for 8 d rows.
    """
    X = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    X = X / X.norm().clamp(min=torch.finfo(X.dtype).tiny)
    gram, product = X @ X.T, None
    for step in range(STEPS):
        factor = torch.addmm(gram, gram, gram, beta=B, alpha=C)
        factor.diagonal().add_(A)
        product = factor if product is None else factor @ product
        if step < STEPS - 1:
            gram = factor @ gram @ factor
    found = product @ X
    return found if matrix.shape[0] <= matrix.shape[1] else found.T


def orthogonal_step(gradient: Tensor, mean: Tensor, momentum: float) -> Tensor:
    return 0.2 * max(mean.shape) ** 0.5 * orthogonal(gradient.lerp(mean, momentum))


class MuonAndAdam(torch.optim.Optimizer):
    """Both as one, since a fit has one optimiser: the groups and the state of both are its own."""

    def __init__(self, muon: Averaged, adam: torch.optim.Adam) -> None:
        self._parts = (muon, adam)
        super().__init__([group for part in self._parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = loss_of(closure)
        first = 0
        for part in self._parts:  # a checkpoint that was loaded has put others in their place
            last = first + len(part.param_groups)
            part.param_groups, part.state = self.param_groups[first:last], self.state
            part.step()
            first = last
        return loss


def build(config: MuonOptimizer, groups: list[Group]) -> Learner:
    matrices = [group.of([p for p in group.parameters if p.ndim == 2]) for group in groups]
    others = [group.of([p for p in group.parameters if p.ndim != 2]) for group in groups]
    adam = torch.optim.Adam(others, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)
    return Learner(MuonAndAdam(Averaged(matrices, orthogonal_step, momentum=config.momentum), adam))
