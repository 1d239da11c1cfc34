"""The connections of a suite together with the dictionaries that give them weights."""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from scae.connections import Connections
from scae.kernels import Edges, edge_weights
from scae.sites import Site
from scae.typing import Float, Int, Tensor

if TYPE_CHECKING:
    from scae.suite.suite import Suite


class Input(NamedTuple):
    """One connection as a reader meets it: the upstream feature and its virtual weight, heads summed."""

    site: Site
    feature: int
    weight: float


class _Rows(Function):
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
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        rows, scale = ctx.saved_tensors
        scaled = grad * scale
        if len(rows) == ctx.size:
            return scaled, None, None
        return grad.new_zeros(ctx.size, grad.shape[1]).index_copy_(0, rows, scaled), None, None


class _Into(NamedTuple):
    """The connections into one site: between all features, between those alone that have any, and which those are."""

    edges: Edges
    from_sources: Edges
    sources: dict[Site, Int[Tensor, " source"]]


class Wiring:
    """Connections in the order in which the kernels walk them, and their virtual weights."""

    def __init__(self, suite: "Suite", connections: Connections) -> None:
        if connections.layout != suite.layout:
            raise ValueError(f"connections of {connections.layout} cannot join a suite of {suite.layout}")
        self._suite = suite
        self._prepared: dict[Site, _Into] = {}
        self.edge_list = connections

    def edges(self, site: Site) -> Edges:
        """The connections into `site`, on the device of its dictionary."""
        return self._into(site).edges

    def weights(self, site: Site) -> Float[Tensor, "edge head"]:
        """The virtual weight of each edge into `site`, by head; differentiable in encoder and decoder rows.

        Of what `site` reads from the stream, before it is divided by the scale of its unit (see `mover`).
        """
        suite, paths, into = self._suite, self._suite.lm.paths, self._into(site)
        rows = torch.cat(
            [_Rows.apply(suite[up].W_dec, features, suite[up].writes.scale) for up, features in into.sources.items()]
        )
        return edge_weights(into.from_sources, paths.readers(site, suite[site].W_enc), paths.writers(site, rows))

    def _into(self, site: Site) -> "_Into":
        device = self._suite[site].W_enc.device
        if site not in self._prepared or self._prepared[site].edges.ptr.device != device:
            inputs, layout = self.edge_list[site], self._suite.layout
            edges = Edges.from_csr(inputs.crow.to(device), inputs.up.to(device), layout.n_upstream(site))
            from_sources, sources = edges.from_sources()
            by_site = {}
            for up in layout.upstream(site):
                features = sources - layout.offset(up)
                by_site[up] = features[(features >= 0) & (features < layout.size(up))]
            self._prepared[site] = _Into(edges, from_sources, by_site)
        return self._prepared[site]

    @torch.no_grad()
    def inputs(self, site: Site | str, feature: int) -> list[Input]:
        """The connections into one feature, strongest first by the size of the virtual weight."""
        site = Site.parse(site) if isinstance(site, str) else site
        suite, paths, layout = self._suite, self._suite.lm.paths, self._suite.layout
        if not 0 <= feature < layout.size(site):
            raise IndexError(f"feature {feature} of {site}, which has features 0..{layout.size(site) - 1}")
        incoming = self.edge_list[site]
        ups = incoming.up[int(incoming.crow[feature]) : int(incoming.crow[feature + 1])].tolist()
        found = []
        for up in ups:
            up_site, up_feature = layout.locate(up)
            reader = paths.readers(site, suite[site].W_enc[feature : feature + 1] / suite[site].reads.scale)
            writer = paths.writers(
                site, suite[up_site].W_dec[up_feature : up_feature + 1] * suite[up_site].writes.scale
            )
            found.append(Input(up_site, up_feature, float((reader * writer).sum())))
        return sorted(found, key=lambda one: -abs(one.weight))
