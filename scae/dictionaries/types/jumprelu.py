"""A learned threshold for each feature (Rajamanoharan et al. 2024, "Jumping Ahead").

    f = pre H(pre - theta),   theta = exp(log_threshold) > 0,   H the step from 0 to 1

The step has no gradient; a rectangle of width w (`bandwidth`) around the threshold stands in for its derivative:

    df/dtheta = -theta / w   where |pre - theta| < w / 2        dH/dtheta = -1 / w   there; 0 elsewhere

What sparsity costs is H too, so that the sum over the entries of a token is its L0 (penalty l0, the paper's), or
tanh(c f), of which also the activation has a gradient (Anthropic, January 2025); times the price.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from scae.core.typing import Bool, Float, Tensor
from scae.dictionaries.activation import Activation, Rule
from scae.dictionaries.dictionary import Dictionary, Shape
from scae.kernels import SparseCode


class JumpReLU(Activation):
    """log_threshold: `[feature]`, in the unit of the pre-activations."""

    def __init__(
        self, *, n_features: int, threshold: float, bandwidth: float, penalty: str, slope: float, price: float
    ) -> None:
        """threshold: of every feature at first; penalty: `l0` or `tanh`; slope: c of tanh."""
        super().__init__()
        self.bandwidth, self.slope, self.price = bandwidth, slope, price
        self.counts = penalty == "l0"
        self.log_threshold = nn.Parameter(torch.full((n_features,), math.log(threshold)))

    @torch.no_grad()
    def support(self, pre: Float[Tensor, "token feature"], live: Bool[Tensor, " token"]) -> SparseCode:
        """In training also the entries just below their threshold, which only the threshold has a gradient from."""
        threshold = self.log_threshold.exp()
        least = (threshold - self.bandwidth / 2).clamp_min(0) if self.training else threshold
        return SparseCode.where((pre > least) & live[:, None], pre)

    def forward(self, code: SparseCode) -> SparseCode:
        threshold = self.log_threshold.exp()[code.col]
        return code.with_values(_Jump.apply(code.value, threshold, self.bandwidth))

    def penalty(self, code: SparseCode, pre: SparseCode) -> Float[Tensor, " nnz"]:
        """l0: their sum is the L0 times the price, of which only the thresholds have a gradient."""
        if not self.counts:
            return self.price * torch.tanh(self.slope * code.value)
        return self.price * _Step.apply(pre.value.detach(), self.log_threshold.exp()[pre.col], self.bandwidth)

    def rule(self) -> Rule:
        return Rule(None, self.log_threshold.detach().exp())

    def follow(self, rule: Rule) -> None:
        if rule.k is not None:
            raise ValueError("sae.kind=jumprelu keeps whatever exceeds a threshold, the file the k largest of a token")
        if not (rule.threshold > 0).all():
            raise ValueError("sae.kind=jumprelu has thresholds above 0, the file has some that are not")
        self.log_threshold.data.copy_(rule.threshold.log().expand_as(self.log_threshold))


class _Jump(Function):
    """`pre H(pre - threshold)`."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return torch.where(pre > threshold, pre, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        near = (pre - threshold).abs() < ctx.bandwidth / 2
        return grad * (pre > threshold), grad * near * (-threshold / ctx.bandwidth), None


class _Step(Function):
    """`H(pre - threshold)`."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        near = (pre - threshold).abs() < ctx.bandwidth / 2
        return None, grad * near * (-1 / ctx.bandwidth), None


def build(shape: Shape, **settings: Any) -> Dictionary:
    return Dictionary.linear(shape, JumpReLU(n_features=shape.n_features, **settings))
