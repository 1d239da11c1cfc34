"""Connections that tests of several rooms need."""

import torch

from scae.connections import Connections, Inputs
from scae.suite import Suite


def every_pair(suite: Suite) -> Connections:
    """All connections, written out one by one."""
    layout = suite.layout
    inputs = {}
    for site in layout.sites:
        n_up, n_down = layout.n_upstream(site), layout.size(site)
        down, up = torch.arange(n_down).repeat_interleave(n_up), torch.arange(n_up).repeat(n_down)
        inputs[site] = Inputs.from_pairs(down, up, n_down)
    return Connections(layout, inputs)
