"""What the model predicts with something else in place of what its modules write.

Where modules write a constant, the others write what they wrote in the clean run, as they do in an arm. What stands at
a point is read by everything behind it, so there the live model says what becomes of the constant.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch

from scae.core.typing import Float, Stream, Tensor
from scae.lm import LanguageModel, Module, Trace


def ablated(lm: LanguageModel, trace: Trace, constants: Mapping[Module, Float[Tensor, " d_out"]]) -> Stream:
    """The final stream with these constants at live positions."""
    values = {module: constant.to(trace.embed.dtype) for module, constant in constants.items()}
    if any(not module.writes for module in values):
        return spliced_stream(lm, trace, values)
    live, own = trace.live[..., None], trace.outputs
    ours = {module: torch.where(live, value, own[module]) for module, value in values.items()}
    return replace(trace, outputs=own | ours).stream(lm.paths.modules)


def spliced_stream(
    lm: LanguageModel, trace: Trace, values: Mapping[Module, Float[Tensor, "*batch_pos d_out"]]
) -> Stream:
    """The final stream of the live model with these values at live positions."""

    def put(module: Module, read: Stream | None, wrote: Stream) -> Stream:
        return torch.where(trace.live[..., None], values[module], wrote) if module in values else wrote

    wrote = lm.splice(trace, put, readers=())
    last = Module(lm.paths.n_layers - 1, "resid")
    return wrote[last] if last in wrote else replace(trace, outputs=wrote).stream(lm.paths.modules)
