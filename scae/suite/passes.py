"""The passes over a suite. Each differs from the next in what a dictionary reads, and in nothing else.

    plain     the model's own activations
    spliced   the live model's activations, with every reconstruction put back into it
    dense     the stream of all reconstructions upstream, scales and attention patterns frozen
    pruned    the constant part of that stream, plus what arrives along the connections

The pruned pass, for a feature i of an MLP site (scale s, activations f of connected features j):

    pre_i(t) = E_i . P base(t) / s(t) + b_i + sum_j (E_i . P D_j) f_j(t) / s(t)

and at an attention site the same, moved through the frozen patterns (see `scae.lm.paths`). base is the embedding plus
what the dictionaries upstream write when nothing fires; at positions that are not live, and for modules without a
dictionary, it holds the model's own outputs instead. With all connections the pruned pass equals the dense one, which
is then the cheaper way to run it. E and D are the rows of the dictionaries times the units of what they read and write
(`scae.dictionaries.unit`), so a suite computes the same whatever the size of the model's stream.

Frozen scales make the passes linear in the activations, with a gain that nothing limits: where one token is far from
everything seen in training, the errors of each module would grow from site to site. So an activation never exceeds its
ceiling, which is learned from the plain pass and is part of what a feature is, in every pass alike. What that does to
the invariants of `tests/suite/test_invariants.py`:

    I1 complete connections are the dense pass    holds: both have the same ceilings
    I2 behind true outputs, the plain pass        holds: of the plain pass with its ceilings, not of one without
    I3 brute force                                min(activation, ceiling) is one more step of the formula
    I4 no connection leaks, I5 causality          hold: a ceiling looks at its own feature and token alone
    I6 backends agree                             untouched: the cut comes after the kernels
    I7 units                                      holds: a ceiling is in the unit of the activations

`sae.bound.margin=null` leaves the activations unbounded.
"""

from collections.abc import Callable, Iterator

import torch

from scae.kernels import Arrivals, SparseCode, Upstream, arrive
from scae.lm import Trace
from scae.sites import Site, levels
from scae.suite.output import SuiteOutput
from scae.suite.suite import Suite
from scae.typing import Float, Stream, Tensor

Observe = Callable[[Site, Float[Tensor, "token feature"], Float[Tensor, "token feature"]], None]
"""(site, pre-activations from the base alone, all of them): what a statistic may look at."""


def plain(suite: Suite, trace: Trace) -> SuiteOutput:
    """Every dictionary reads what its module saw in the clean run."""
    collector = _Collector(suite, trace)
    for site, x in true_inputs(suite, trace):
        collector.replace(site, suite[site].shift(_tokens(x)))
    return collector.output()


def true_inputs(suite: Suite, trace: Trace) -> Iterator[tuple[Site, Stream]]:
    """What every dictionary reads in the plain pass."""
    for site, stream in trace.streams(parallel=suite.layout.parallel):
        if site in suite:
            yield site, trace.outputs[site] if site.kind == "attn" else suite.lm.paths.read(site, stream, trace)


def spliced(suite: Suite, trace: Trace) -> SuiteOutput:
    """The model runs again with every reconstruction in place; its attention and normalisations react."""
    collector = _Collector(suite, trace)

    def replace(site: Site, read: Stream, wrote: Stream) -> Stream:
        if site not in suite:
            return wrote
        return collector.replace(site, suite[site].shift(_tokens(read)))

    collector.outputs |= suite.lm.splice(trace, replace)
    return collector.output()


def dense(suite: Suite, trace: Trace) -> SuiteOutput:
    """Every dictionary reads the sum of all reconstructions upstream."""
    collector = _Collector(suite, trace)
    stream = trace.embed
    for level in levels(trace.outputs, parallel=suite.layout.parallel):
        for site in level:
            if site in suite:
                collector.replace(site, suite[site].shift(_tokens(suite.lm.paths.read(site, stream, trace))))
        for site in level:
            stream = stream + collector.outputs[site]
    return collector.output()


def pruned(suite: Suite, trace: Trace, observe: Observe | None = None) -> SuiteOutput:
    """Every feature reads the base and its connections."""
    if suite.connections.edge_list.is_complete:
        return dense(suite, trace)
    collector = _Collector(suite, trace)
    base = trace.embed
    codes: list[SparseCode] = []  # of the levels before
    for level in levels(trace.outputs, parallel=suite.layout.parallel):
        upstream = Upstream.from_codes(codes) if codes else None
        for site in level:
            if site in suite:
                shifted = suite[site].shift(_tokens(suite.lm.paths.read(site, base, trace)))
                arrivals = _arrivals(suite, site, upstream, trace)
                if observe is not None:
                    alone = suite[site].preactivations(shifted)
                    observe(site, alone, alone if arrivals is None else alone + arrive(arrivals))
                collector.replace(site, shifted, arrivals)
        for site in level:
            base = base + _constant_part(suite, site, trace)
            codes += [collector.codes[site]] if site in suite else []
    return collector.output()


def _arrivals(suite: Suite, site: Site, upstream: Upstream | None, trace: Trace) -> Arrivals | None:
    """What arrives at the features of `site` along their connections; None where there are none."""
    edges = suite.connections.edges(site)
    if upstream is None or not len(edges):
        return None
    mover = suite.lm.paths.mover(site, trace, suite[site].reads.scale)
    return Arrivals(upstream, edges, suite.connections.weights(site), mover)


def _constant_part(suite: Suite, site: Site, trace: Trace) -> Stream:
    """What a module leaves on the stream whatever its features do."""
    if site not in suite:
        return trace.outputs[site]
    return torch.where(trace.live[..., None], suite[site].constant, trace.outputs[site])


def _tokens(stream: Stream) -> Float[Tensor, "token d_model"]:
    return stream.flatten(0, 1)


class _Collector:
    """Runs the dictionaries of one pass and keeps what they give."""

    def __init__(self, suite: Suite, trace: Trace) -> None:
        self.suite, self.trace = suite, trace
        self.live = trace.live.flatten()
        self.codes: dict[Site, SparseCode] = {}
        self.revived: dict[Site, Stream] = {}
        self.outputs = {site: out for site, out in trace.outputs.items() if site not in suite}

    def replace(self, site: Site, shifted: Float[Tensor, "token d_model"], arrivals: Arrivals | None = None) -> Stream:
        """Encode and decode: the reconstruction at live positions, the model's own output elsewhere."""
        suite, dictionary = self.suite, self.suite[site]
        code, dead = dictionary.sparsify(shifted, self.live, arrivals, auxk=suite.revives, chunk_mb=suite.chunk_mb)
        self.codes[site] = code
        self.outputs[site] = self._place(site, dictionary.decode(code))
        if dead is not None:
            self.revived[site] = self._shape(dictionary.revive(dead))
        return self.outputs[site]

    def output(self) -> SuiteOutput:
        units = {site: self.suite[site].writes.scale for site in self.codes}
        return SuiteOutput(self.trace.embed, self.trace.live, self.codes, self.outputs, units, self.revived)

    def _place(self, site: Site, reconstruction: Float[Tensor, "token d_model"]) -> Stream:
        return torch.where(self.trace.live[..., None], self._shape(reconstruction), self.trace.outputs[site])

    def _shape(self, tokens: Float[Tensor, "token d_model"]) -> Stream:
        return tokens.view(*self.trace.live.shape, -1)
