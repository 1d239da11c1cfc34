"""Muon for matrices (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon), Adam for the rest.

B <- momentum B + g
W <- W - 0.2 lr sqrt(max(rows, columns)) O      O = U V^T of g + momentum B = U S V^T, by five Newton-Schulz iterations

The factor makes a step as long, by entry, as Adam's usually is (Liu et al. 2025, "Muon is Scalable for LLM Training"),
so that one rate serves both. The iterations run in bfloat16, whatever the weights are in.
"""

from collections.abc import Callable
from typing import Any

import torch

from scae.config import MuonOptimizer
from scae.training.optimizers.learner import Group, Learner, loss_of


class MuonAndAdam(torch.optim.Optimizer):
    """Both as one, since a fit has one optimiser: the groups and the state of both are its own."""

    def __init__(self, muon: torch.optim.Muon, adam: torch.optim.Adam) -> None:
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
    muon = torch.optim.Muon(matrices, momentum=config.momentum, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.Adam(others, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)
    return Learner(MuonAndAdam(muon, adam))
