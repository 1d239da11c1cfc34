"""What every feature of a suite is in the pruned pass before its activation function."""

import torch

from scae.lm import Trace
from scae.sites import Site
from scae.suite import Suite, SuiteOutput, passes


def observed(suite: Suite, trace: Trace) -> tuple[dict[Site, torch.Tensor], SuiteOutput]:
    """The pre-activations, and what the pass gives."""
    seen: dict[Site, torch.Tensor] = {}
    out = passes.pruned(suite, trace, meet=lambda reading: seen.update({reading.site: reading.preactivations()}))
    return seen, out
