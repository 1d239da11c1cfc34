"""What comes along each connection, exactly as the pruned pass adds it up.

The pre-activation of feature i at token t is its constant part (the embedding unless it is a site, all biases, what the
model itself wrote where nothing is replaced) and what its connections bring,

    pre_i(t) = constant_i(t) + sum_j c_ij(t)        c_ij: see `scae.selection.contributions`

Of each of the three the mean is taken over the tokens at which i fires in this pass; so the mean contributions of its
connections and its mean constant part add up to its mean pre-activation. A prediction of the sink fires where its token
is the one that comes next. The c_ij(t) are never formed one by one: their sum is the virtual weight times the
derivative with respect to it (`scae.kernels.arrived_by_edge`), at the cost of one backward step.
"""

from dataclasses import dataclass

import numpy as np
import torch

from scae.analysis.database import Array, pointers
from scae.analysis.sums import Summing, Sums
from scae.core.typing import Float, Tensor
from scae.evaluation import Arm
from scae.kernels import SparseCode, Upstream, arrived_by_edge
from scae.lm import Trace
from scae.sites import Site
from scae.suite import Reading, Suite, SuiteOutput
from scae.suite.passes import arrivals_at


class Contributions(Summing):
    """Of the arm "pruned"; it runs that pass once more, to see what arrives at a feature. By downstream site
    `edges/<site>` in the order of `Suite.virtual.edges`, and `fired/`, `constant/`, `total/<site>` by feature."""

    def output(self, arm: Arm, out: SuiteOutput, trace: Trace) -> None:
        if arm.mode != "pruned":
            return
        suite = arm.suite
        firing = {site: code.entries(code.value > 0) for site, code in out.codes.items()}
        ends = suite.codes_of_ends(trace)

        def meet(reading: Reading) -> None:
            at = firing[reading.site]
            for what, values in zip(("constant", "total"), reading.alone_and_all(), strict=True):
                self.add(f"{what}/{reading.site}", _by_feature(at, values[at.row, at.col]))

        suite(trace, meet=meet)
        codes = out.codes | ends
        for site, at in (ends | firing).items():
            self.add(f"fired/{site}", _by_feature(at, torch.ones_like(at.value)))
            upstream = [codes[up] for up in suite.layout.upstream(site)]
            if upstream and (arrivals := arrivals_at(suite, site, Upstream.from_codes(upstream), trace)) is not None:
                self.add(f"edges/{site}", arrived_by_edge(arrivals, at.with_values(torch.ones_like(at.value))))


def _by_feature(code: SparseCode, values: Float[Tensor, " nnz"]) -> Float[Tensor, " feature"]:
    return torch.zeros(code.n_features, dtype=torch.float64, device=values.device).index_add_(
        0, code.col, values.double()
    )


@dataclass(frozen=True)
class EdgeList:
    """All connections of a suite: the numbers of the sites at both ends, of the features there, the virtual weight with
    its heads summed, and the mean contribution; NaN where the downstream feature does not fire."""

    up_site: Array
    up: Array
    down_site: Array
    down: Array
    weight: Array
    mean: Array

    def of(self, number: int, size: int, *, inputs: bool) -> dict[str, Array]:
        """The fields `_crow` and so on of the site of this number, of so many features: their inputs, or outputs; those
        of a feature by the size of their mean contribution, then of their weight."""
        own_site, own = (self.down_site, self.down) if inputs else (self.up_site, self.up)
        other_site, other = (self.up_site, self.up) if inputs else (self.down_site, self.down)
        mine = np.flatnonzero(own_site == number)
        size_of_mean = np.nan_to_num(np.abs(self.mean[mine]))
        order = np.lexsort((other[mine], other_site[mine], -np.abs(self.weight[mine]), -size_of_mean, own[mine]))
        mine = mine[order]
        return {
            "_crow": pointers(np.bincount(own[mine], minlength=size)),
            "_site": other_site[mine],
            "_feature": other[mine],
            "_weight": self.weight[mine],
            "_mean": self.mean[mine],
        }


@torch.no_grad()
def edge_list(suite: Suite, sums: Sums) -> EdgeList:
    """Every connection, from the sums of `Contributions`."""
    columns: dict[str, list[Array]] = {name: [] for name in EdgeList.__dataclass_fields__}
    layout = suite.layout
    ends = np.cumsum(layout.sizes)
    for number, site in enumerate(layout.sites):
        if not layout.upstream(site) or not len(edges := suite.virtual.edges(site)):
            continue
        down, up = edges.down.cpu().numpy(), edges.up.cpu().numpy()
        up_site = np.searchsorted(ends, up, side="right")
        weight = suite.virtual.weights(site).sum(1) / suite.reads(site).scale
        with np.errstate(invalid="ignore"):
            mean = sums[f"edges/{site}"].numpy() / sums[f"fired/{site}"].numpy()[down]
        columns["up_site"].append(up_site.astype(np.int16))
        columns["up"].append((up - (ends - layout.sizes)[up_site]).astype(np.int32))
        columns["down_site"].append(np.full(len(down), number, dtype=np.int16))
        columns["down"].append(down.astype(np.int32))
        columns["weight"].append(weight.cpu().float().numpy())
        columns["mean"].append(mean.astype(np.float32))
    kinds = {"up_site": np.int16, "down_site": np.int16, "up": np.int32, "down": np.int32}
    return EdgeList(
        **{
            name: np.concatenate([np.zeros(0, dtype=kinds.get(name, np.float32)), *parts])
            for name, parts in columns.items()
        }
    )


def constants(site: Site, sums: Sums) -> dict[str, Array]:
    """`inputs_constant` and `inputs_total` of a site's features; NaN for those that do not fire."""
    fired = sums[f"fired/{site}"]
    fired = torch.where(fired > 0, fired, torch.nan)
    of = {"inputs_constant": "constant", "inputs_total": "total"}
    return {name: (sums[f"{key}/{site}"] / fired).float().numpy() for name, key in of.items()}
