"""What every frozen path of the stream offers to the passes, to the virtual weights and to the scores."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from scae.core.typing import Float, Stream, Tensor
from scae.lm.modules import Module
from scae.lm.paths.weights import LinearPaths
from scae.lm.trace import Trace


@dataclass(frozen=True)
class Path(ABC):
    """How the residual stream reaches something that `module` reads or writes."""

    weights: LinearPaths
    module: Module

    moves = False
    """Whether it moves anything between positions, for which a trace needs attention patterns."""

    @property
    @abstractmethod
    def n_heads(self) -> int:
        """The number of terms that a virtual weight is the sum of."""

    def scales(self, trace: Trace) -> Float[Tensor, "batch pos 1"]:
        """By what the stream is divided on the way."""
        return trace.scales[self.module]

    @abstractmethod
    def read(self, stream: Stream, trace: Trace) -> Stream:
        """What arrives at the end of the path when the residual stream is `stream`."""

    @abstractmethod
    def readers(self, encoder: Float[Tensor, "down d_model"]) -> Float[Tensor, "down head r"]:
        """Encoder rows at the downstream end of a virtual weight."""

    @abstractmethod
    def writers(self, decoder: Float[Tensor, "up d_model"]) -> Float[Tensor, "up head r"]:
        """Upstream decoder rows as the path meets them at the upstream end of a virtual weight."""

    @abstractmethod
    def mover(
        self, trace: Trace, unit: Float[Tensor, ""]
    ) -> Float[Tensor, " token"] | Float[Tensor, "batch query key head"]:
        """What takes contributions made at each position, by head, to where they are received.

        All divided by `unit`, the size of what the reading dictionary takes for 1.
        """

    @abstractmethod
    def move_back(
        self,
        weights: Float[Tensor, "token down"],
        scales: Float[Tensor, "batch pos 1"],
        pattern: Float[Tensor, "batch head query key"] | None,
    ) -> Float[Tensor, "token head down"]:
        """Weights of the positions that receive, at the positions that they receive from: the transpose of `mover`."""
