"""What is on the stream whatever the features do, in parts by the nodes that they belong to."""

import torch

from scae.core.typing import Float, Int, Tensor
from scae.lm import Module, Trace
from scae.suite import Suite


class Base:
    """Before the layers: the embedding alone; `add` lets a module pass.

    token, bias: `[pos]` the nodes of the embedding and of constants; errors: by module, the nodes of what no feature
    says, -1 where there is none.
    """

    def __init__(
        self,
        suite: Suite,
        trace: Trace,
        *,
        token: Int[Tensor, " pos"],
        bias: Int[Tensor, " pos"],
        errors: dict[Module, Int[Tensor, " pos"]],
    ) -> None:
        self._suite, self._trace = suite, trace
        self._live = trace.live[0, :, None]
        self._sources = [token, bias]
        self._errors = errors
        embed = trace.embed[0]
        if suite.source is None:
            self._parts = [embed, torch.zeros_like(embed)]
        else:  # the rows of live tokens arrive along connections
            constant = suite.source.constant(trace)[0]
            self._parts = [torch.where(self._live, 0, constant), torch.where(self._live, constant, 0)]

    def add(self, module: Module) -> None:
        own, site = self._trace.outputs[module][0], self._suite.site_at(module)
        constant = own if site is None else self._suite[site].constant
        said = ~self._live if site is None else torch.ones_like(self._live)
        self._parts[1] = self._parts[1] + torch.where(said, torch.where(self._live, constant, own), 0)
        if site is None:
            self._parts.append(torch.where(self._live, own, 0))
            self._sources.append(self._errors[module])

    @property
    def streams(self) -> Float[Tensor, "part pos d_model"]:
        return torch.stack(self._parts)

    @property
    def sources(self) -> Int[Tensor, "part pos"]:
        return torch.stack(self._sources)
