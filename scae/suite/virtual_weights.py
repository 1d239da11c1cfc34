"""Virtual weights: what a connection from feature j to feature i weighs, before any token is seen.

    V_ij^h = reader(E_i)^h . writer(D_j)^h         along the path of the site of i (`scae.lm.paths`), by head h

They are not parameters: they follow from the rows of the two dictionaries, and gradients pass through them to both.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from scae.connections import Connections
from scae.core.typing import Float, Int, Tensor
from scae.kernels import Edges, edge_weights
from scae.lm import Module, Path
from scae.sites import Site


class Rows(NamedTuple):
    """Encoder or decoder rows in a unit of the stream, and the size of that unit."""

    rows: Float[Tensor, "feature d_model"]
    scale: Float[Tensor, ""]


class Input(NamedTuple):
    """One connection as a reader meets it: the upstream feature and its virtual weight, heads summed."""

    site: Site
    feature: int
    weight: float


class VirtualWeights:
    """The connections between dictionaries in the order in which the kernels walk them, and their weights."""

    def __init__(
        self,
        connections: Connections,
        *,
        reads: Callable[[Site], Rows],
        writes: Callable[[Site, Module], Rows],
        path: Callable[[Site], Path],
    ) -> None:
        """reads: the encoder rows of a site; writes: its decoder rows as a module further on meets them; path: how the
        stream reaches what a site reads."""
        self.connections, self._reads, self._writes, self._path = connections, reads, writes, path
        self._prepared: dict[Site, _Into] = {}

    def edges(self, site: Site) -> Edges:
        """The connections into `site`, on the device of its dictionary."""
        return self._into(site).edges

    def weights(self, site: Site) -> Float[Tensor, "edge head"]:
        """The virtual weight of each edge into `site`, by head; differentiable in encoder and decoder rows.

        Of what `site` reads from the stream, before it is divided by the scale of its unit (see `Path.mover`).
        """
        path, into = self._path(site), self._into(site)
        rows = []
        for up, features in into.sources.items():
            table, scale = self._writes(up, site.module)
            rows.append(_Scaled.apply(table, features, scale))
        return edge_weights(into.from_sources, path.readers(self._reads(site).rows), path.writers(torch.cat(rows)))

    @torch.no_grad()
    def inputs(self, site: Site, feature: int) -> list[Input]:
        """The connections into one feature, strongest first by the size of the virtual weight."""
        layout = self.connections.layout
        if not 0 <= feature < layout.size(site):
            raise IndexError(f"feature {feature} of {site}, which has features 0..{layout.size(site) - 1}")
        incoming, found = self.connections[site], []
        up = incoming.up[int(incoming.crow[feature]) : int(incoming.crow[feature + 1])].long()
        for source in layout.upstream(site):
            first = layout.offset(source)
            numbers = up[(up >= first) & (up < first + layout.size(source))] - first
            weights = self.between(source, numbers, site, torch.full_like(numbers, feature))
            found += [Input(source, *one) for one in zip(numbers.tolist(), weights.tolist(), strict=True)]
        return sorted(found, key=lambda one: -abs(one.weight))

    @torch.no_grad()
    def between(
        self, up: Site, up_features: Int[Tensor, " edge"], down: Site, down_features: Int[Tensor, " edge"]
    ) -> Float[Tensor, " edge"]:
        """The virtual weights of pairs of features of two sites, connected or not, heads summed."""
        path, reads, writes = self._path(down), self._reads(down), self._writes(up, down.module)
        device = reads.rows.device
        readers = path.readers(reads.rows[down_features.to(device)] / reads.scale)
        writers = path.writers(writes.rows[up_features.to(device)] * writes.scale)
        return (readers * writers).sum((1, 2))

    def _into(self, site: Site) -> "_Into":
        device = self._reads(site).rows.device
        if site not in self._prepared or self._prepared[site].edges.ptr.device != device:
            inputs, layout = self.connections[site], self.connections.layout
            edges = Edges.from_csr(inputs.crow.to(device), inputs.up.to(device), layout.n_upstream(site))
            from_sources, sources = edges.from_sources()
            by_site = {}
            for up in layout.upstream(site):
                features = sources - layout.offset(up)
                by_site[up] = features[(features >= 0) & (features < layout.size(up))]
            self._prepared[site] = _Into(edges, from_sources, by_site)
        return self._prepared[site]


class _Into(NamedTuple):
    """The connections into one site: between all features, between those alone that have any, and which those are."""

    edges: Edges
    from_sources: Edges
    sources: dict[Site, Int[Tensor, " source"]]


class _Scaled(Function):
    """`scale * table[rows]`, no row twice: then the gradient is a copy, many times as fast as the sum torch makes."""

    @staticmethod
    def forward(
        ctx: Any, table: Float[Tensor, "row d_model"], rows: Int[Tensor, " source"], scale: Float[Tensor, ""]
    ) -> Tensor:
        ctx.save_for_backward(rows, scale)
        ctx.size = len(table)
        return table * scale if len(rows) == len(table) else table.index_select(0, rows).mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None, None
        rows, scale = ctx.saved_tensors
        scaled = grad * scale
        if len(rows) == ctx.size:
            return scaled, None, None
        return grad.new_zeros(ctx.size, grad.shape[1]).index_copy_(0, rows, scaled), None, None
