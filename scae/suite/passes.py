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

Where every token has a unit of its own (`sae.normalise=token`), what a dictionary reads is not linear in what is
written upstream. The plain, the spliced and the dense pass take the size of what is read there; no pruned pass is.
"""

from collections.abc import Collection, Iterator, Mapping
from functools import partial

import torch

from scae.core.typing import Float, Stream, Tensor
from scae.kernels import Arrivals, SparseCode, Upstream
from scae.lm import Module, Trace
from scae.sites import SINK, Site, read_at
from scae.suite.assembly import Assembly
from scae.suite.output import SuiteOutput
from scae.suite.reading import Meet, Reading


def plain(suite: Assembly, trace: Trace, aux: Collection[str] = (), meet: Meet | None = None) -> SuiteOutput:
    """Every dictionary reads what its module saw in the clean run."""
    collector = _Collector(suite, trace, aux, meet)
    for site, x in true_inputs(suite, trace):
        collector.replace(site, _tokens(x))
    return collector.output()


def true_inputs(suite: Assembly, trace: Trace) -> Iterator[tuple[Site, Stream]]:
    """What every dictionary reads in the plain pass."""
    return read_at(suite.sites, trace, suite.lm.paths)


def spliced(suite: Assembly, trace: Trace, aux: Collection[str] = (), meet: Meet | None = None) -> SuiteOutput:
    """The model runs again with every reconstruction in place; its attention and normalisations react."""
    collector = _Collector(suite, trace, aux, meet)

    def replace(module: Module, read: Stream | None, wrote: Stream) -> Stream:
        site = suite.site_at(module)
        if site is None:
            return wrote
        return collector.replace(site, _tokens(wrote if read is None else read))

    readers = {site.module for site in suite.sites if site.transcoder}
    wrote = suite.lm.splice(trace, replace, readers=readers)
    collector.outputs |= {module: wrote[module] for module in collector.outputs}
    return collector.output(streams={stream.layer: value for stream, value in wrote.items() if stream.kind == "resid"})


def dense(suite: Assembly, trace: Trace, aux: Collection[str] = (), meet: Meet | None = None) -> SuiteOutput:
    """Every dictionary reads the sum of all reconstructions upstream. Raises ValueError where no linear path leads."""
    suite.demand_paths()
    collector = _Collector(suite, trace, aux, meet)
    stream = trace.embed
    for level in suite.lm.paths.levels:
        for site in filter(None, map(suite.site_at, level)):
            collector.replace(site, _tokens(suite.path(site).read(stream, trace)))
        for module in level:
            stream = stream + collector.outputs[module]
    return collector.output(_logits(suite, stream, None, trace))


def pruned(suite: Assembly, trace: Trace, aux: Collection[str] = (), meet: Meet | None = None) -> SuiteOutput:
    """Every feature reads the base and its connections."""
    if suite.connections.is_complete:
        return dense(suite, trace, aux, meet)
    suite.demand_pruned()
    collector = _Collector(suite, trace, aux, meet)
    base = trace.embed if suite.source is None else suite.source.constant(trace)
    codes = [] if suite.source is None else [suite.source.code(trace)]  # of the levels before
    for level in suite.lm.paths.levels:
        upstream = Upstream.from_codes(codes) if codes else None
        for site in filter(None, map(suite.site_at, level)):
            collector.replace(site, _tokens(suite.path(site).read(base, trace)), upstream)
        for module in level:
            base = base + _constant_part(suite, module, trace)
        codes += [collector.codes[site] for site in map(suite.site_at, level) if site is not None]
    return collector.output(_logits(suite, base, Upstream.from_codes(codes) if codes else None, trace))


def arrivals_at(suite: Assembly, site: Site, upstream: Upstream | None, trace: Trace) -> Arrivals | None:
    """What arrives at the features of `site` along their connections; None where there are none."""
    if upstream is None or not len(edges := suite.virtual.edges(site)):
        return None
    mover = suite.path(site).mover(trace, suite.reads(site).scale)
    return Arrivals(upstream, edges, suite.virtual.weights(site), mover)


def _logits(
    suite: Assembly, stream: Stream, upstream: Upstream | None, trace: Trace
) -> Float[Tensor, "batch pos vocab"] | None:
    """What the sink predicts from a final stream and along its connections; None where there is no sink."""
    if suite.sink is None:
        return None
    return suite.sink.logits(suite.path(SINK).read(stream, trace), arrivals_at(suite, SINK, upstream, trace))


def _constant_part(suite: Assembly, module: Module, trace: Trace) -> Stream:
    """What a module leaves on the stream whatever its features do."""
    site = suite.site_at(module)
    if site is None:
        return trace.outputs[module]
    return torch.where(trace.live[..., None], suite[site].constant, trace.outputs[module])


def _tokens(stream: Stream) -> Float[Tensor, "token d_model"]:
    return stream.flatten(0, 1)


class _Collector:
    """Runs the dictionaries of one pass and keeps what they give."""

    def __init__(self, suite: Assembly, trace: Trace, aux: Collection[str], meet: Meet | None) -> None:
        self.suite, self.trace, self.aux, self.meet = suite, trace, aux, meet
        self.live = trace.live.flatten()
        self.codes: dict[Site, SparseCode] = {}
        self.found: dict[str, dict[Site, Tensor]] = {}
        self.carried: dict[Module, Stream] = {}  # what dictionaries of earlier layers write at a module, too
        self.outputs = dict(trace.outputs)  # a dictionary's takes the place of its module's when it has run
        if unseen := [str(site) for site in suite.sites if site.module not in trace.outputs]:
            raise ValueError(f"the trace is older than the suite: it does not hold what stands at {', '.join(unseen)}")

    def replace(self, site: Site, read: Float[Tensor, "token d_model"], upstream: Upstream | None = None) -> Stream:
        """Encode what is read, and what comes from `upstream` along connections, and decode: the reconstruction at live
        positions, the model's own output elsewhere."""
        suite, dictionary = self.suite, self.suite[site]
        arrivals = partial(arrivals_at, suite, site, upstream, self.trace)
        if self.meet is not None:
            self.meet(Reading(site, dictionary, dictionary.shift(read), arrivals, suite.chunk_mb))
        reconstruction, (code, aux) = dictionary.reconstruct(
            dictionary.shift(read),
            self.live,
            arrivals(),
            size=dictionary.size(read),
            aux=self.aux,
            auxk=suite.revives,
            chunk_mb=suite.chunk_mb,
        )
        self.codes[site] = code
        wrote, own = self._shape(reconstruction), self.trace.outputs[site.module]
        if site.module in self.carried:
            carried = self.carried.pop(site.module)
            wrote = wrote + carried
            if "partial" in aux:  # other codes rebuild the same target, beside the same of earlier layers
                aux["partial"] = aux["partial"] + _tokens(carried).detach()
        for name, value in aux.items():
            self.found.setdefault(name, {})[site] = value
        for layer, more in dictionary.beyond(code):
            module = Module(layer, site.module.kind)
            self.carried[module] = self.carried.get(module, 0) + self._shape(more)
        self.outputs[site.module] = torch.where(self.trace.live[..., None], wrote, own)
        return self.outputs[site.module]

    def output(
        self, logits: Float[Tensor, "batch pos vocab"] | None = None, *, streams: Mapping[int, Stream] | None = None
    ) -> SuiteOutput:
        return SuiteOutput(
            embed=self.trace.embed,
            live=self.trace.live,
            codes=self.codes,
            outputs=self.outputs,
            streams=dict(streams or {}),
            units={site: self.suite[site].writes.scale for site in self.codes},
            aux=self.found,
            logits=logits,
        )

    def _shape(self, tokens: Float[Tensor, "token d_model"]) -> Stream:
        return tokens.view(*self.trace.live.shape, -1)
