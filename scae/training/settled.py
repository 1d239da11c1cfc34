"""Sites that a pass explains already learn slowly.

Steps of Adam and of Muon are as long at every site, however little is left to learn there. Where there is next to no
error they carry rows away and bring them back, and features that fall silent on the way stay so: what they would
explain is too little for AuxK to call them. So the rate of a site is multiplied by

    min(1, FVU_i / settled.fvu), at least `LEAST`

with FVU_i that of the pass that is trained, before its rows are fitted (`refit`). Measured without it: the first sites
of three models, which pruning takes nothing from, ended with more dead features than they began with, some with a
larger FVU.
"""

import torch

from scae.lm import Trace
from scae.objectives.comparison import variation
from scae.sites import Site
from scae.suite import Mode, Suite

LEAST = 0.01  # no site stands still: what its readers need may change


@torch.no_grad()
def left_to_learn(suite: Suite, trace: Trace, mode: Mode, *, fvu: float) -> dict[Site, float]:
    """By site what its rate is multiplied by; only those that learn slower than at the full rate."""
    with suite.inference():
        out = suite(trace, mode)
    factors = {}
    for site in suite.sites:
        target, wrote = (outputs[site.module][trace.live] for outputs in (trace.outputs, out.outputs))
        share = float((target - wrote).square().sum() / variation(target)) / fvu
        if share < 1:
            factors[site] = max(LEAST, share)
    return factors
