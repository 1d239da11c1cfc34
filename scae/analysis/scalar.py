"""How much of a suite few connections carry (SCALAR): the n strongest edges of all are kept, and the pruned pass runs.

    K(n) = mean over scored tokens of KL(model || pruned pass along the n strongest edges), nats

    absolute    integral of K over n, by trapezoids, from no connection to all of them; nats x edges
    relative    absolute / edges: the mean of K over n. Dominated by the larger half of the edges
    log_area    the mean of K over log n, from 1 edge to all: every octave counts the same

The strength of an edge is what it contributes where it matters, in units of what its site writes,

    |sum_t f_i(t) c_ij(t)| / sum_t f_i(t)  x  |D_i| sqrt(n_i / sum_k,t |D_k|^2 f_k(t)^2)

its mean contribution (`scae.selection.contributions`, weighted by activation, in the pruned pass) times what an error
of its feature is to its site (`scae.selection.budgets`); edges of different features and sites can be ordered by it.
Edges into the sink (`sites.unembed`) compare by their contributions alone.

The twin: the same with as many random connections. On the suite of the chosen ones it says what its dictionaries owe to
those; on a suite that was finetuned along random ones (`evaluation.twins`), what the choice is worth. Costs a pruned
pass of the text for each number of edges.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch

from scae.connections import Connections, Inputs
from scae.core.typing import Float, Tensor
from scae.evaluation import Arm, Metrics, Observer, Subject, walk
from scae.evaluation.compared import Compared, compare
from scae.lm import Trace
from scae.selection import Record, Sample, Traces, mean_contributions
from scae.selection.budgets import importance
from scae.selection.contributions import chunks
from scae.sites import Site
from scae.suite import Suite, SuiteOutput

Strength = Mapping[Site, Float[Tensor, " edge"]]
"""Of each connection into a site, in the order of its edge list; the larger, the longer it is kept."""


def scalar(
    suite: Suite,
    traces: Traces,
    *,
    connections: Connections | None = None,
    strength: Strength | None = None,
    points: int = 12,
    chunk_mb: int = 256,
) -> dict[str, Any]:
    """`{"n": [...], "kl": [...], "absolute": ..., "relative": ..., "log_area": ...}`.

    connections: whose edges are kept, in place of the suite's own; strength: see above where it is not given; points:
    numbers of edges, none, all, and as many between as make a geometric series; chunk_mb: bound on the scores held.
    Raises ValueError for complete connections, which have no list.
    """
    connections = suite.connections if connections is None else connections
    if connections.is_complete:
        raise ValueError("complete connections are no list of edges that could be ordered: prune the suite first")
    own = connected(suite, connections)
    strength = strengths(own, traces, chunk_mb=chunk_mb) if strength is None else strength
    counts = numbers(len(connections), points)
    arms = [Arm(str(n), connected(suite, strongest(connections, strength, n)), "pruned") for n in counts]
    kl = walk(suite.lm, arms, traces(), [Divergence()])
    return {"n": counts, "kl": [kl[str(n)] for n in counts]} | areas(counts, [kl[str(n)] for n in counts])


def areas(n: list[int], kl: list[float]) -> dict[str, float | None]:
    """The three areas below a curve; n rises from 0. None where there is no edge."""
    if n[-1] == 0:
        return {"absolute": 0.0, "relative": None, "log_area": None}
    absolute = sum((b - a) * (x + y) / 2 for a, b, x, y in zip(n, n[1:], kl, kl[1:], strict=False))
    logs, later = [math.log(one) for one in n if one], [y for one, y in zip(n, kl, strict=True) if one]
    area = sum((b - a) * (x + y) / 2 for a, b, x, y in zip(logs, logs[1:], later, later[1:], strict=False))
    return {
        "absolute": absolute,
        "relative": absolute / n[-1],
        "log_area": area / (logs[-1] - logs[0]) if len(logs) > 1 else later[0],
    }


def numbers(edges: int, points: int) -> list[int]:
    """0, then at most `points` numbers from 1 to `edges` whose logarithms are evenly spaced."""
    if edges == 0:
        return [0]
    steps = max(1, points - 1)
    return [0, *sorted({round(edges ** (k / steps)) for k in range(steps)} | {edges})]


def strongest(connections: Connections, strength: Strength, n: int) -> Connections:
    """The n strongest connections; of equal ones, those of earlier sites and features."""
    layout = connections.layout
    sites = [site for site in layout.sites if len(connections[site])]
    sizes = [len(connections[site]) for site in sites]
    if not sites:
        return connections
    values = torch.cat([strength[site].double().cpu() for site in sites])
    kept = torch.zeros(len(values), dtype=torch.bool)
    kept[torch.argsort(values, descending=True, stable=True)[:n]] = True
    inputs = {}
    for site, keep in zip(sites, kept.split(sizes), strict=True):
        edges = connections[site]
        inputs[site] = Inputs.from_pairs(edges.down.cpu()[keep], edges.up.cpu()[keep], layout.size(site))
    return Connections(layout, inputs)


@torch.no_grad()
def strengths(suite: Suite, traces: Traces, *, chunk_mb: int = 256) -> dict[Site, Float[Tensor, " edge"]]:
    """Of the suite's own connections, on this text."""

    def measure(trace: Trace) -> Record:
        codes = suite(trace, mode="pruned").codes | suite.codes_of_ends(trace)
        return Record(trace.live, suite.scales(trace), codes)

    with suite.inference():
        sample = Sample(suite, traces, measure, megabytes=chunk_mb)
    tokens = max((one.live.numel() for one in sample.records), default=0)
    found = {}
    for site in suite.layout.sites:
        edges = suite.connections[site]
        if not len(edges):
            continue
        parts = []
        for rows in chunks(suite, site, chunk_mb, tokens=tokens):
            scores = mean_contributions(suite, site, rows, sample, "activation").abs().cpu()
            inside = slice(int(edges.crow[rows.start]), int(edges.crow[rows.stop]))
            parts.append(scores[edges.down[inside].cpu() - rows.start, edges.up[inside].cpu().long()])
        found[site] = torch.cat(parts).double()
        if site in suite:
            found[site] *= importance(suite, site, sample.records)[edges.down.cpu()]
    return found


def connected(suite: Suite, connections: Connections) -> Suite:
    """The same dictionaries, not copied, along other connections."""
    other = copy.copy(suite)
    other.__dict__.pop("virtual", None)  # what was prepared for the connections of the other
    other.connect(connections)
    return other


class Divergence(Observer):
    """KL(model || arm) in nats a token, by the name of the arm."""

    def begin(self, subject: Subject) -> None:
        self._paths = subject.lm.paths
        self._model, self._arms = Compared(), {arm.name: Compared() for arm in subject.arms}
        self._read: dict[str, tuple[bool, Tensor]] = {}  # of this batch: logits, or what they are made from

    def output(self, arm: Arm, out: SuiteOutput, trace: Trace) -> None:
        known = out.logits is not None
        self._read[arm.name] = known, trace.at_scored(out.residual() if out.logits is None else out.logits)

    def batch(self, trace: Trace) -> None:
        def predicted(name: str, part: slice) -> Float[Tensor, "scored vocab"]:
            known, read = self._read[name]
            return read[part] if known else self._paths.logits(read[part])

        others = [(sums, lambda part, name=name: predicted(name, part)) for name, sums in self._arms.items()]
        compare(trace, self._paths, self._model, others)
        self._read.clear()

    def result(self) -> Metrics:
        return {name: sums.kl for name, sums in self._arms.items()}
