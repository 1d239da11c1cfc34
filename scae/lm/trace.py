"""What one run of the language model leaves behind for the passes over the suite."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from scae.core.typing import Bool, Float, Int, Live, Stream, Tensor
from scae.lm.modules import Levels, Module


@dataclass(frozen=True)
class Trace:
    """The clean run of the model on a batch of windows; nothing in it carries a gradient.

    tokens: `[batch, pos]`; live: `[batch, pos]` text positions; embed: `[batch, pos, d_model]` the stream before the
    first layer; outputs: what every module writes to the stream, in order,
    `[batch, pos, d_model]`; scales: the number by which
    each module's input is divided, `[batch, pos, 1]`, 1 where it is not; patterns: by layer, how much of each key
    reaches each query, `[batch, head, query, key]`, over the scale of the attention output's own normalisation where
    it has one; None where the pass to come does not move anything between positions; documents: `[batch, pos]` the
    number of the document where attention stayed inside it (see `scae.lm.borders`), None where it could cross;
    autocast: what mixed precision rounded the model's products to, None where it was off; reads: by module, what a
    transcoder there reads, where the run comes from a store (`scae.activations`), which keeps what the plain pass over
    its sites needs and nothing else: `embed` is NaN then, `scales` is empty.
    """

    tokens: Int[Tensor, "batch pos"]
    live: Live
    embed: Stream
    outputs: dict[Module, Stream]
    scales: dict[Module, Float[Tensor, "batch pos 1"]]
    patterns: dict[int, Float[Tensor, "batch head query key"]] | None
    documents: Int[Tensor, "batch pos"] | None = None
    autocast: torch.dtype | None = None
    reads: dict[Module, Stream] | None = None

    @property
    def scored(self) -> Bool[Tensor, "batch pos_minus_1"]:
        """Text positions followed by text that they could foretell: where a prediction is compared."""
        scored = self.live[:, :-1] & self.live[:, 1:]
        return scored if self.documents is None else scored & (self.documents[:, :-1] == self.documents[:, 1:])

    @property
    def targets(self) -> Int[Tensor, " scored"]:
        """The tokens that are foretold at the scored positions."""
        return self.tokens[:, 1:][self.scored]

    def at_scored(self, stream: Float[Tensor, "batch pos width"]) -> Float[Tensor, "scored width"]:
        """A stream, or logits, at the scored positions."""
        return stream[:, :-1][self.scored]

    def parts(self) -> Iterator[tuple[str, Stream]]:
        """What is known of the stream, by the name that a user knows."""
        if self.reads is None:
            yield "the language model's embedding", self.embed
        for module, output in self.outputs.items():
            yield f"the language model's own output at {module}", output

    @property
    def n_live(self) -> int:
        return int(self.live.sum())

    def stream(self, modules: Iterable[Module]) -> Stream:
        """The embedding plus what these modules write."""
        stream = self.embed
        for module in modules:
            stream = stream + self.outputs[module]
        return stream

    def streams(self, levels: Levels) -> Iterator[tuple[Module, Stream]]:
        """Every module of a model of these levels, and the residual stream that it reads."""
        stream = self.embed
        for level in levels:
            for module in level:
                yield module, stream
            for module in level:
                stream = stream + self.outputs[module]
