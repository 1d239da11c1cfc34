"""What a pass over the suite returns."""

from dataclasses import dataclass, field

from scae.core.typing import Float, Live, Stream, Tensor
from scae.kernels import SparseCode
from scae.lm import Module
from scae.sites import Site


@dataclass(frozen=True)
class SuiteOutput:
    """One pass over a batch.

    embed: `[batch, pos, d_model]` the stream before the first layer; live: `[batch, pos]`; codes: by site, the
    activations of its features; outputs: what every module leaves on the stream, in order, `[batch, pos, d_model]`:
    the reconstruction of its dictionary at live positions, the model's own output elsewhere and where there is no
    dictionary, and the same of points; streams: by layer, the stream after it, in a pass in which a dictionary replaced
    what stands at a point, so that it is no sum of outputs; units: by site, the size of what its dictionary takes for
    1; aux: by name and site, what a loss asked the dictionaries for (`scae.dictionaries.Encoded`), by token where it
    is; logits: what the sink of the suite predicts, None where there is none and predictions follow from the final
    stream.
    """

    embed: Stream
    live: Live
    codes: dict[Site, SparseCode]
    outputs: dict[Module, Stream]
    streams: dict[int, Stream] = field(default_factory=dict)
    units: dict[Site, Float[Tensor, ""]] = field(default_factory=dict)
    aux: dict[str, dict[Site, Tensor]] = field(default_factory=dict)
    logits: Float[Tensor, "batch pos vocab"] | None = None

    @property
    def reconstructions(self) -> dict[Site, Stream]:
        return {site: self.outputs[site.module] for site in self.codes}

    @property
    def predicts(self) -> bool:
        """Whether it is known what becomes of the stream: a dictionary at a point says so in the spliced pass alone."""
        return bool(self.streams) or all(site.module.writes for site in self.codes)

    def residual(self, layer: int | None = None) -> Stream:
        """The residual stream after `layer`; without one, after the last. Raises ValueError where it is not known."""
        if not self.predicts:
            raise ValueError("what reconstructions at points make of the stream is known in the spliced pass alone")
        if self.streams:
            return self.streams[max(self.streams) if layer is None else layer]
        stream = self.embed
        for module, output in self.outputs.items():
            if module.writes and (layer is None or module.layer <= layer):
                stream = stream + output
        return stream
