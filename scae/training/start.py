"""What a suite takes from the model before it is trained, and from the plain pass once it is."""

from collections.abc import Collection, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch

from scae.core.typing import Float, Live, Stream, Tensor
from scae.dictionaries import Unit
from scae.lm import Trace
from scae.sites import Site
from scae.suite import Suite
from scae.suite.passes import true_inputs

HELD = 1 << 29  # bytes of what dictionaries read and rebuild that are held at a time


@torch.no_grad()
def start_from_data(
    suite: Suite,
    batches: list[Any],
    *,
    centred: bool,
    furthest: float,
    scaled: bool = True,
    sites: Collection[Site] | None = None,
) -> None:
    """Give every dictionary the units of its own site and the mean of what it reconstructs, and scale its encoder so
    that what it adds to that mean is as long, for the median token of these batches, as what the target adds.

    sites: those that start here; None: all. centred, furthest, scaled: see `scae.dictionaries.Unit.measure`.

    A median needs all tokens of a site at once, but no two sites need each other: the model runs once for as many sites
    as fit. In memory: `HELD` bytes of streams (or one site's: tokens x d_model x 2 numbers), two traces of a batch, and
    while a site is measured a few copies of its tokens.
    """
    if suite.source is not None:
        suite.source.measure(torch.cat([batch.tokens[batch.live] for batch in batches]).to(suite.lm.device))
    positions = sum(batch.tokens.numel() for batch in batches)
    starting = suite.sites if sites is None else tuple(site for site in suite.sites if site in sites)
    for group in _that_fit(suite, starting, positions * suite.lm.paths.d_model * suite.lm.paths.W_U.element_size()):
        seen: dict[Site, list[_Seen]] = {site: [] for site in group}
        for batch in batches:
            trace = batch.to(suite.lm.device).trace(suite.lm, patterns=False)
            for site, x in true_inputs(suite, trace):
                if site in seen:
                    seen[site].append(_Seen(x, trace.outputs[site.module], trace.live))
        for site in group:
            _start(suite, site, seen.pop(site), centred=centred, furthest=furthest, scaled=scaled)
    for site in suite.sites:
        if layers := suite[site].shape.further:
            units = torch.stack([suite[Site(layer, site.kind)].writes.scale for layer in layers])
            suite[site].decoder.get_buffer("sizes").copy_(units / suite[site].writes.scale)


class _Seen(NamedTuple):
    """What a dictionary reads and should write in one batch."""

    read: Stream
    target: Stream
    live: Live


def _that_fit(suite: Suite, sites: Iterable[Site], bytes_of_a_stream: int) -> Iterator[list[Site]]:
    """Runs of sites, in order, whose streams take at most `HELD` bytes; an autoencoder reads what it rebuilds."""
    group: list[Site] = []
    held = 0
    for site in sites:
        size = bytes_of_a_stream * (2 if suite[site].transcoder else 1)
        if group and held + size > HELD:
            yield group
            group, held = [], 0
        group.append(site)
        held += size
    if group:
        yield group


def _start(suite: Suite, site: Site, seen: list[_Seen], *, centred: bool, furthest: float, scaled: bool) -> None:
    own = suite[site]
    measure = partial(_measured, centred=centred, furthest=furthest, scaled=scaled)
    measure(own.reads, [one.read[one.live] for one in seen])
    own.decoder.b.copy_(measure(own.writes, [one.target[one.live] for one in seen]))
    buffers = {name: buffer.clone() for name, buffer in own.named_buffers()}
    targets, made = [], []
    for one in seen:
        read, live = one.read.flatten(0, 1), one.live.flatten()
        size = own.size(read)
        code = own.sparsify(own.shift(read), live, chunk_mb=suite.chunk_mb)
        nothing = own.writes.leave(own.decoder.b, size)  # what is written when no feature fires
        targets.append((one.target.flatten(0, 1) - nothing)[live])
        made.append((own.decode(code, size) - nothing)[live])
    wanted, length = (_median_length(torch.cat(each)) for each in (targets, made))
    if length > 0:
        own.encoder.rescale(wanted / length)
    for name, buffer in own.named_buffers():
        buffer.copy_(buffers[name])  # a threshold learned on the way belongs to an encoder that is no more


def _measured(unit: Unit, parts: list[Tensor], *, centred: bool, furthest: float, scaled: bool) -> Tensor:
    return unit.measure(torch.cat(parts), centred=centred, furthest=furthest, scaled=scaled)


def freeze(suite: Suite, parts: Iterable[str]) -> None:
    """Let these parts of every dictionary stay as they are, whatever is trained."""
    for site in suite.sites:
        for part in parts:
            suite[site].get_submodule(part).requires_grad_(False)


@torch.no_grad()
def bound_from_data(suite: Suite, traces: Iterable[Trace], *, margin: float) -> None:
    """Let no activation exceed `margin` times the largest that its feature has in the plain pass on these traces.

    A feature that is rare in the sample is given no less than the median one.
    """
    largest = {site: torch.zeros_like(suite[site].ceiling) for site in suite.sites}
    with suite.inference():
        for trace in traces:
            for site, code in suite(trace, mode="plain").codes.items():
                largest[site].scatter_reduce_(0, code.col, code.value, "amax")
    for site, seen in largest.items():
        if (seen > 0).any():
            suite[site].ceiling.copy_(margin * seen.clamp_min(seen[seen > 0].median()))


def _median_length(x: Float[Tensor, "token d_model"]) -> Float[Tensor, ""]:
    return x.norm(dim=1).median()
