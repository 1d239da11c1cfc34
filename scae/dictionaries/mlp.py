"""An encoder with hidden layers, beside a linear one or in place of it.

    h   = a(A_depth ... a(A_1 u + c_1) ... + c_depth)       `depth` layers of `width`, a = ReLU or GELU
    pre = W u + b + V h                                     skip: the linear encoder goes on beside them
    pre = b + V h                                           no skip

Which activations are best depends on which other features are active, and a linear encoder cannot know (O'Neill et al.
2024, "Compute optimal inference and provable amortisation gap in sparse autoencoders"). Beside a linear encoder V
begins at 0, so that the codes are at first those of that encoder, bit for bit.

Wide are the two outputs, W and V: like a linear encoder they learn at the kept entries alone. A feature has no row of
one direction here, so connections have no weight, and there is no pruned pass.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from scae.core.typing import Float, Tensor
from scae.dictionaries.dictionary import Dictionary
from scae.dictionaries.encoder import Encoder
from scae.kernels import Arrivals, SparseCode, encode_at

NONLINEARITIES: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


class MlpEncoder(Encoder):
    """V: `[feature, width]`; hidden: from `u` to `h`; W, b: as of a linear encoder, no W where there is no skip."""

    def __init__(
        self, linear: Encoder, *, width: int, depth: int, nonlinearity: str, skip: bool, lr_factor: float
    ) -> None:
        """linear: whose rows and biases it begins with."""
        super().__init__(linear.W.detach())
        self.b.data.copy_(linear.b.detach())
        self.skip, self.lr_factor = skip, lr_factor
        n_features, d_in = linear.W.shape
        layers: list[nn.Module] = []
        for size in [d_in] + [width] * (depth - 1):
            layers += [_layer(size, width), NONLINEARITIES[nonlinearity]()]
        self.hidden = nn.Sequential(*layers)
        if skip:
            self.V = nn.Parameter(torch.zeros(n_features, width))
        else:
            self.V = nn.Parameter(nn.functional.normalize(torch.randn(n_features, width), dim=1))
            del self.W

    def deep(self) -> Iterator[tuple[nn.Parameter, float]]:
        for parameter in (self.V, *self.hidden.parameters()):
            yield parameter, self.lr_factor

    @property
    def rows(self) -> Float[Tensor, "feature d_in"]:
        raise ValueError("an encoder with hidden layers has no direction a feature, so connections have no weight")

    @torch.no_grad()
    def begin_as(self, other: Encoder) -> None:
        """Become the same function as a linear encoder, by the skip beside hidden layers that add nothing yet; where
        there is no skip, and nothing that a linear encoder could be, stay as new."""
        if isinstance(other, MlpEncoder):
            self.load_state_dict(other.state_dict())
        elif self.skip:
            super().begin_as(other)

    @torch.no_grad()
    def rescale(self, factor: Float[Tensor, ""]) -> None:
        if self.skip:
            super().rescale(factor)
        self.V.mul_(factor)

    @torch.no_grad()
    def preactivations(
        self, u: Float[Tensor, "token d_in"], arrivals: Arrivals | None = None
    ) -> Float[Tensor, "token feature"]:
        self._refuse(arrivals)
        h = self.hidden(u)
        return super().preactivations(u).addmm_(h, self.V.T) if self.skip else torch.addmm(self.b, h, self.V.T)

    def differentiable(
        self,
        code: SparseCode,
        u: Float[Tensor, "token d_in"],
        arrivals: Arrivals | None = None,
        *,
        subtracted: Float[Tensor, " d_in"] | None = None,
    ) -> SparseCode:
        """The values pass through both outputs, each of which takes the gradients of its own part of the sum."""
        self._refuse(arrivals)
        bias: Tensor = self.b
        if self.skip:
            code, bias = super().differentiable(code, u, subtracted=subtracted), torch.zeros_like(self.b)
        read = u if subtracted is None else u + (subtracted.detach() - subtracted)  # `u`, with the gradient
        return code.with_values(encode_at(code, self.hidden(read), self.V, bias))

    def _refuse(self, arrivals: Arrivals | None) -> None:
        if arrivals is not None:
            raise ValueError("nothing can arrive along connections at an encoder with hidden layers")


def with_mlp(dictionary: Dictionary, *, lr_factor: float = 1.0, **settings: Any) -> Dictionary:
    """The dictionary with such an encoder, which begins as the one that it had where there is a `skip`."""
    dictionary.encoder = MlpEncoder(dictionary.encoder, lr_factor=lr_factor, **settings)
    return dictionary


def _layer(size: int, width: int) -> nn.Linear:
    """With the weights of He et al. (2015): an input whose numbers are about 1 gives a hidden layer of that size."""
    layer = nn.Linear(size, width)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer
