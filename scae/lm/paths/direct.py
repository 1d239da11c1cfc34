"""The stream itself, as a module reads it: `x(t) = P r(t) / s(t)`, s of the clean run."""

from scae.core.typing import Float, Stream, Tensor
from scae.lm.paths.path import Path
from scae.lm.trace import Trace


class Direct(Path):
    """To the input of its module. One head, of width d_model."""

    n_heads = 1

    def read(self, stream: Stream, trace: Trace) -> Stream:
        return self.weights.centre(stream) / self.scales(trace)

    def readers(self, encoder: Float[Tensor, "down d_model"]) -> Float[Tensor, "down head r"]:
        return self.weights.centre(encoder)[:, None]

    def writers(self, decoder: Float[Tensor, "up d_model"]) -> Float[Tensor, "up head r"]:
        return decoder[:, None]  # P is symmetric: it is applied to the reader

    def mover(self, trace: Trace, unit: Float[Tensor, ""]) -> Float[Tensor, " token"]:
        """One factor a token."""
        return (self.scales(trace) * unit).reciprocal().flatten()

    def move_back(
        self,
        weights: Float[Tensor, "token down"],
        scales: Float[Tensor, "batch pos 1"],
        pattern: Float[Tensor, "batch head query key"] | None,
    ) -> Float[Tensor, "token head down"]:
        return (weights / scales.reshape(-1, 1))[:, None]


class ToLogits(Direct):
    """Through the final normalisation, its scale that of the clean run, to what the unembedding reads."""

    def scales(self, trace: Trace) -> Float[Tensor, "batch pos 1"]:
        return self.weights.scale(trace.stream(self.weights.modules))
