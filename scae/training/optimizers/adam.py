"""Adam (Kingma and Ba 2015, algorithm 1).

m <- beta1 m + (1 - beta1) g        v <- beta2 v + (1 - beta2) g^2
w <- w - lr mhat / (sqrt(vhat) + eps)      mhat, vhat: without the bias of their start at 0
"""

import torch

from scae.config import AdamOptimizer
from scae.training.optimizers.learner import Group, Learner


def build(config: AdamOptimizer, groups: list[Group]) -> Learner:
    betas = (config.beta1, config.beta2)
    return Learner(torch.optim.Adam([group.all for group in groups], betas=betas, eps=config.eps, fused=True))
