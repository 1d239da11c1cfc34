"""What a suite takes from the model before it is trained, and from the plain pass once it is."""

from collections.abc import Iterable
from typing import Any

import torch

from scae.lm import Trace
from scae.sites import Site
from scae.suite import Suite
from scae.suite.passes import true_inputs
from scae.typing import Float, Tensor


@torch.no_grad()
def start_from_data(suite: Suite, batches: list[Any], *, centred: bool) -> None:
    """Give every dictionary the units of its own site and the mean of what it reconstructs, and scale its encoder so
    that what it adds to that mean is as long, for the median token of these batches, as what the target adds."""
    lm = suite.lm
    traces = [lm.trace(*b.to(lm.device), patterns=False) for b in batches]
    inputs: dict[Site, list[Tensor]] = {site: [] for site in suite.sites}
    for trace in traces:
        for site, x in true_inputs(suite, trace):
            inputs[site].append(x[trace.live])
    for site, read in inputs.items():
        own = suite[site]
        own.reads.measure(torch.cat(read), centred=centred)
        own.b_dec.copy_(own.writes.measure(_targets(site, traces), centred=centred))
    buffers = {name: buffer.clone() for name, buffer in suite.named_buffers()}
    outs = [suite(trace, mode="plain") for trace in traces]
    for site in suite.sites:
        ours = torch.cat([out.outputs[site][out.live] for out in outs])
        constant = suite[site].constant
        wanted, made = (_median_length(x - constant) for x in (_targets(site, traces), ours))
        if made > 0:
            suite[site].W_enc.mul_(wanted / made)
    for name, buffer in suite.named_buffers():
        buffer.copy_(buffers[name])  # a threshold learned on the way belongs to encoders that are no more


@torch.no_grad()
def bound_from_data(suite: Suite, traces: Iterable[Trace], *, margin: float) -> None:
    """Let no activation exceed `margin` times the largest that its feature has in the plain pass on these traces.

    A feature that is rare in the sample is given no less than the median one.
    """
    largest = {site: torch.zeros_like(suite[site].ceiling) for site in suite.sites}
    was_training = suite.training
    suite.eval()
    for trace in traces:
        for site, code in suite(trace, mode="plain").codes.items():
            largest[site].scatter_reduce_(0, code.col, code.value, "amax")
    suite.train(was_training)
    for site, seen in largest.items():
        if (seen > 0).any():
            suite[site].ceiling.copy_(margin * seen.clamp_min(seen[seen > 0].median()))


def _targets(site: Site, traces: list[Trace]) -> Float[Tensor, "token d_model"]:
    return torch.cat([trace.outputs[site][trace.live] for trace in traces])


def _median_length(x: Float[Tensor, "token d_model"]) -> Float[Tensor, ""]:
    return x.norm(dim=1).median()
