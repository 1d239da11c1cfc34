"""Regrowth: connections move while the suite is finetuned, their number stays (after RigL, Evci et al. 2020).

In a round each feature i lets some of its connections go for as many that it does not have. With c_ij(t), what j
contributes to the pre-activation of i in the pruned pass (`scae.selection.contributions`), over the latest batches,

    goes    where | sum_t f_i(t) c_ij(t) | is smallest: it does least when i does something
    comes   where - sum_t dL/df_i(t) c_ij(t) is largest, and positive: the loss falls fastest with its strength

At step t at most this share of the connections of a feature moves, rounded up:

    share(t) = share (1 + cos(pi t / last)) / 2        last = until x steps

A feature that is silent on these batches keeps what it has, and so do the logits (`sites.unembed`). Weights are virtual
(V_ij = E_i . P D_j), so a new connection has no state to begin with: a round only rewires. Growing by contribution
instead did nothing (measured).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning
import torch

from scae.config import Regrow
from scae.connections import Connections, Inputs
from scae.core.typing import Bool, Float, Int, Tensor
from scae.kernels import Arrivals, SparseCode, arrived_by_edge
from scae.lm import Trace
from scae.objectives import Objective
from scae.selection import Record, Sample, Traces, summed_contributions
from scae.selection.contributions import chunks
from scae.sites import Site
from scae.suite import Reading, Suite
from scae.training.steps import ends_step

Reduce = Callable[[Tensor], Tensor]
"""The sum over the processes of a distributed run."""


class Regrowth(lightning.Callback):
    """Holds the rounds of a fit. The connections are its state, so they lie in every checkpoint."""

    def __init__(self, suite: Suite, objective: Objective, config: Regrow, *, steps: int, chunk_mb: int) -> None:
        """steps: optimiser steps of the whole fit; chunk_mb: bound on the scores, and on the
        attention patterns, held at a time."""
        self.suite, self.objective, self.config, self.chunk_mb = suite, objective, config, chunk_mb
        self.last = config.until * steps

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, every = trainer.global_step, self.config.every
        if not ends_step(trainer, batch_idx) or every is None or step % every or step >= self.last:
            return
        before = self.suite.connections
        with pl_module.evaluated():
            after = regrown(
                self.suite,
                measure(
                    self.suite,
                    self.objective,
                    partial(self._latest, trainer, pl_module, batch_idx),
                    megabytes=self.chunk_mb,
                ),
                share=self.config.share * (1 + math.cos(math.pi * step / self.last)) / 2,
                chunk_mb=self.chunk_mb,
                reduce=lambda value: trainer.strategy.reduce(value, reduce_op="sum"),
            )
        self.suite.connect(trainer.strategy.broadcast(after))  # rounding must not make two processes choose differently
        pl_module.log("train/regrown", moved_share(before, self.suite.connections))

    def _latest(self, trainer: Any, module: Any, batch_idx: int) -> Iterator[Trace]:
        """The batches up to this one, as this process saw them."""
        data = trainer.datamodule
        for step in range(max(0, batch_idx + 1 - self.config.batches), batch_idx + 1):
            batch = data.batch(step, rank=trainer.global_rank, world_size=trainer.world_size)
            yield module.trace(batch.to(self.suite.lm.device))

    def state_dict(self) -> dict[str, list[Tensor]]:
        edges = self.suite.connections
        return {str(site): [edges[site].crow, edges[site].up] for site in self.suite.layout.sites}

    def load_state_dict(self, state_dict: dict[str, list[Tensor]]) -> None:
        inputs = {Site.parse(name): Inputs(*tensors) for name, tensors in state_dict.items()}
        self.suite.connect(Connections(self.suite.layout, inputs))


@dataclass(frozen=True)
class Measured(Record):
    """One batch of the pruned pass.

    gradients: of the loss in the activations; does: of each connection, down by down, `sum_t f_i(t) c_ij(t)`.
    """

    gradients: dict[Site, SparseCode]
    does: dict[Site, Float[Tensor, " edge"]]


def measure(suite: Suite, objective: Objective, traces: Traces, *, megabytes: int) -> Sample[Measured]:
    """Run the pruned pass over some batches, forward and back; the suite's inference thresholds apply.

    megabytes: bound on the attention patterns held, see `Sample`.
    """

    def one(trace: Trace) -> Measured:
        arrivals: dict[Site, Arrivals | None] = {}

        def meet(reading: Reading) -> None:
            arrivals[reading.site] = reading.arrivals()

        with torch.enable_grad():
            out = suite(trace, mode="pruned", aux=objective.aux, meet=meet)
            values = [code.value for code in out.codes.values()]
            loss = objective(out, trace, suite.lm.paths).total
            gradients = torch.autograd.grad(loss, values, materialize_grads=True)
        return Measured(
            trace.live,
            trace.scales,
            {site: code.with_values(code.value.detach()) for site, code in out.codes.items()}
            | suite.codes_of_ends(trace),
            {
                site: code.with_values(g * (code.value < suite[site].ceiling[code.col]))  # what is cut cannot grow
                for (site, code), g in zip(out.codes.items(), gradients, strict=True)
            },
            {
                site: arrived_by_edge(these, out.codes[site])[these.edges.to_down]
                for site, these in arrivals.items()
                if these is not None
            },
        )

    with suite.inference():
        return Sample(suite, traces, one, megabytes=megabytes)


@torch.no_grad()
def regrown(
    suite: Suite, measured: Sample[Measured], *, share: float, chunk_mb: int, reduce: Reduce = lambda value: value
) -> Connections:
    """The connections after a round in which each feature may move `share` of its own."""
    layout, edges = suite.layout, suite.connections
    tokens = max(one.live.numel() for one in measured.records)
    inputs = {site: edges[site] for site in layout.sites}
    for site in suite.sites:
        if not len(edges[site]):
            continue
        fired = reduce(torch.stack([one.codes[site].fired() for one in measured.records]).any(0).int()) > 0
        does = reduce(torch.stack([one.does[site] for one in measured.records]).sum(0)).abs()
        downs, ups = [], []
        for rows in chunks(suite, site, chunk_mb, tokens=tokens):
            helps = -reduce(slopes(suite, site, rows, measured))
            connected = _connected(edges[site], rows, layout.n_upstream(site)).to(helps.device)
            most = (share * connected.sum(1)).ceil().long() * fired[rows]
            inside = slice(int(edges[site].crow[rows.start]), int(edges[site].crow[rows.stop]))
            down, up = swapped(does[inside], helps, connected, most).nonzero(as_tuple=True)
            downs.append(down.cpu() + rows.start)
            ups.append(up.cpu())
        inputs[site] = Inputs.from_pairs(torch.cat(downs), torch.cat(ups), layout.size(site))
    return Connections(layout, inputs)


def swapped(
    does: Float[Tensor, " edge"],
    helps: Float[Tensor, "down up"],
    connected: Bool[Tensor, "down up"],
    most: Int[Tensor, " down"],
) -> Bool[Tensor, "down up"]:
    """Up to `most` connections of each row, those that do least, exchanged for those that help most, if they help.

    does: of what is connected, row by row.
    """
    down, up = connected.nonzero(as_tuple=True)
    order = torch.argsort(does, stable=True)  # equal ones, such as those that do nothing, in order
    order = order[torch.argsort(down[order], stable=True)]
    down, up = down[order], up[order]  # row by row, what does least first
    degree = connected.sum(1)
    rank = torch.arange(len(down), device=down.device) - (degree.cumsum(0) - degree)[down]
    down, up, rank = (part[rank < most[down]] for part in (down, up, rank))
    best = helps.masked_fill(connected, -torch.inf).topk(int(most.max()))
    better = best.values[down, rank] > 0
    after = connected.clone()
    after[down[better], up[better]] = False
    after[down[better], best.indices[down, rank][better]] = True
    return after


def slopes(suite: Suite, site: Site, rows: slice, measured: Sample[Measured]) -> Float[Tensor, "down up"]:
    """`sum_t dL/df_i(t) c_ij(t)`: of the loss, in the strength of every connection into `rows` of `site`."""
    return summed_contributions(suite, site, rows, measured, lambda one: one.gradients[site].columns(rows).dense())


def moved_share(before: Connections, after: Connections) -> float:
    """The share of the connections of `after` that `before` does not have."""
    new = 0
    for site in after.layout.sites:
        old_pairs, pairs = ((edges[site].down.long() << 32) + edges[site].up for edges in (before, after))
        new += int((~torch.isin(pairs, old_pairs)).sum())
    return new / max(1, len(after))


def _connected(inputs: Inputs, rows: slice, n_up: int) -> Bool[Tensor, "down up"]:
    """The connections of some features as a mask."""
    inside = slice(int(inputs.crow[rows.start]), int(inputs.crow[rows.stop]))
    mask = torch.zeros(rows.stop - rows.start, n_up, dtype=torch.bool)
    mask[inputs.down[inside] - rows.start, inputs.up[inside].long()] = True
    return mask
