"""How far the residual stream is from the model's after some layers (Braun et al. 2024, section 2.3).

mean over those layers of ||r - rhat||^2 / ||r - mean r||^2, r the residual stream
"""

from scae.core.typing import Float, Tensor
from scae.objectives.comparison import Comparison, variation
from scae.objectives.terms.term import Term


class BlockMse(Term):
    name = "block_mse"

    def __init__(self, *, weight: float, layers: str | list[int]) -> None:
        super().__init__(weight=weight)
        self.layers = layers

    def __call__(self, comparison: Comparison) -> Float[Tensor, ""]:
        trace, paths = comparison.trace, comparison.paths
        layers = range(paths.n_layers) if isinstance(self.layers, str) else self.layers
        total = trace.embed.new_zeros(())
        for layer in layers:
            clean = trace.stream(module for module in paths.modules if module.layer <= layer)
            target, ours = clean[trace.live], comparison.out.residual(layer)[trace.live]
            total = total + (target - ours).square().sum() / variation(target)
        return total / len(layers)
