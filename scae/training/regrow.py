"""Regrowth: connections move while the suite is finetuned, their number stays (after RigL, Evci et al. 2020).

In a round each feature lets its weakest connections go for the strongest ones that it does not have, where those are
stronger: by |mean contribution| over what the feature does when it fires (`scae.selection.scores`), measured in the
pruned pass on the latest batches. At step t at most this share of its connections moves, rounded up:

    share(t) = share (1 + cos(pi t / last)) / 2        last = until x steps

A feature that is silent on these batches keeps what it has. Weights are virtual (V_ij = E_i . P D_j), so a new
connection has no state to begin with: a round only rewires.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import lightning
import torch

from scae.config import Regrow
from scae.connections import Connections, Inputs
from scae.lm import Trace
from scae.selection import mean_contributions, record
from scae.selection.scores import chunks
from scae.sites import Site
from scae.suite import Suite
from scae.typing import Bool, Float, Int, Tensor


class Regrowth(lightning.Callback):
    """Holds the rounds of a fit. The connections are its state, so they lie in every checkpoint."""

    def __init__(self, suite: Suite, config: Regrow, *, steps: int, chunk_mb: int) -> None:
        """steps: optimiser steps of the whole fit; chunk_mb: bound on the scores held at a time."""
        self.suite, self.config, self.chunk_mb = suite, config, chunk_mb
        self.last = config.until * steps

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        within_a_step = (batch_idx + 1) % trainer.accumulate_grad_batches
        if within_a_step or self.config.every is None or step % self.config.every or step >= self.last:
            return
        before = after = self.suite.connections.edge_list
        if trainer.is_global_zero:  # alone: rounding could make two processes choose differently
            share = self.config.share * (1 + math.cos(math.pi * step / self.last)) / 2
            after = regrown(self.suite, self._latest(trainer, batch_idx), share=share, chunk_mb=self.chunk_mb)
        self.suite.connect(trainer.strategy.broadcast(after))
        pl_module.log("train/regrown", moved_share(before, self.suite.connections.edge_list))

    def _latest(self, trainer: Any, batch_idx: int) -> Iterator[Trace]:
        """The batches up to this one, as the processes saw them."""
        lm, data, processes = self.suite.lm, trainer.datamodule, trainer.world_size
        for step in range(max(0, batch_idx + 1 - self.config.batches), batch_idx + 1):
            for rank in range(processes):
                batch = data.batch(step, rank=rank, world_size=processes)
                yield lm.trace(batch.tokens.to(lm.device), batch.live.to(lm.device))

    def state_dict(self) -> dict[str, list[Tensor]]:
        edges = self.suite.connections.edge_list
        return {str(site): [edges[site].crow, edges[site].up] for site in self.suite.sites}

    def load_state_dict(self, state_dict: dict[str, list[Tensor]]) -> None:
        inputs = {Site.parse(name): Inputs(*tensors) for name, tensors in state_dict.items()}
        self.suite.connect(Connections(self.suite.layout, inputs))


def regrown(suite: Suite, traces: Iterable[Trace], *, share: float, chunk_mb: int) -> Connections:
    """The connections after a round in which each feature may move `share` of its own."""
    layout, edges = suite.layout, suite.connections.edge_list
    records = record(suite, traces, mode="pruned")
    inputs = {}
    for site in layout.sites:
        if not len(edges[site]):
            continue
        fired = torch.stack([one.codes[site].fired() for one in records]).any(0)
        downs, ups = [], []
        for rows in chunks(suite, site, chunk_mb):
            scores = mean_contributions(suite, site, rows, records, "activation").abs() * fired[rows, None]
            connected = _connected(edges[site], rows, layout.n_upstream(site)).to(scores.device)
            most = (share * connected.sum(1)).ceil().long()
            down, up = swapped(scores, connected, most).nonzero(as_tuple=True)
            downs.append(down.cpu() + rows.start)
            ups.append(up.cpu())
        inputs[site] = Inputs.from_pairs(torch.cat(downs), torch.cat(ups), layout.size(site))
    return Connections(layout, inputs)


def swapped(
    scores: Float[Tensor, "down up"], connected: Bool[Tensor, "down up"], most: Int[Tensor, " down"]
) -> Bool[Tensor, "down up"]:
    """Each row's weakest connections exchanged, up to `most`, for the strongest others, pair by pair while stronger."""
    down, up = connected.nonzero(as_tuple=True)
    order = torch.argsort(scores[down, up], stable=True)  # equal ones, such as those that carry nothing, in order
    order = order[torch.argsort(down[order], stable=True)]
    down, up = down[order], up[order]  # row by row, weakest first
    degree = connected.sum(1)
    rank = torch.arange(len(down), device=down.device) - (degree.cumsum(0) - degree)[down]
    down, up, rank = (part[rank < most[down]] for part in (down, up, rank))
    strongest = scores.masked_fill(connected, -torch.inf).topk(int(most.max()))
    stronger = strongest.values[down, rank] > scores[down, up]
    after = connected.clone()
    after[down[stronger], up[stronger]] = False
    after[down[stronger], strongest.indices[down, rank][stronger]] = True
    return after


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
