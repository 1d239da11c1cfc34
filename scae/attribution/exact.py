"""The graph of one window: what the pruned pass computes there, as nodes and edges that sum to it.

    pre_i(q)     = sum of the edges into (i, q)        features along stored connections, tokens, biases, and the errors
                                                       of modules without a dictionary
    logit_v(q)   = sum of the edges into (v, q)        the model's own, at the last position q (`outputs`)

With a source (`sites.embed`) tokens are features with stored connections, and what the embedding writes beside them
(its mean, positions) is a bias. The embedding of a position that is not live is no choice of connections: it is read
whole.
"""

from dataclasses import dataclass

import torch

from scae.attribution.base import Base
from scae.attribution.links import Firing, Links, Readers, from_features, from_streams, links_of
from scae.attribution.nodes import Nodes
from scae.attribution.outputs import Outputs, chosen
from scae.core.typing import Float, Int, Tensor
from scae.lm import EMBED, Module, Trace
from scae.sites import SOURCE, Site
from scae.suite import Suite, passes, thresholds

PROBABILITY, MOST = 0.95, 10


@dataclass(frozen=True, eq=False)
class Exact:
    """absolute, relative: the largest difference between a sum of edges and what the pass has computed, and that over
    the sum of the absolute edges."""

    nodes: Nodes
    links: Links
    absolute: float
    relative: float


def demand_connections(suite: Suite) -> None:
    """Raises ValueError where a suite has no connections that could be shown."""
    if suite.connections.is_complete:
        raise ValueError("the suite is not pruned: every feature reads from every other, there is no circuit to show")
    suite.demand_paths()


def demand_circuit(suite: Suite) -> None:
    """Raises ValueError where a suite has no graph of a prompt."""
    demand_connections(suite)
    suite.demand_pruned()
    if thresholds.foreign(suite, "pruned"):
        raise ValueError(
            f"the thresholds of the suite belong to the pass {suite.threshold_pass}, a circuit is one of the pruned "
            "pass: scae.suite.thresholds.learn sets them"
        )


@torch.no_grad()
def exact(suite: Suite, trace: Trace, *, most: int = MOST, probability: float = PROBABILITY) -> Exact:
    """The graph of a trace of one window. most, probability: of the next tokens, see `scae.attribution.outputs.chosen`.

    Raises ValueError where the suite has none (`demand_circuit`).
    """
    demand_circuit(suite)
    if len(trace.tokens) != 1:
        raise ValueError(f"a circuit is one of a single window, got {len(trace.tokens)}")
    with suite.inference():
        return _Builder(suite, trace).build(most, probability)


class _Builder:
    """Collects nodes and links in their order: what is written before the layers, level by level, logits."""

    def __init__(self, suite: Suite, trace: Trace) -> None:
        self.suite, self.trace, self.paths = suite, trace, suite.lm.paths
        self.places = ["embed", *(str(suite.site_at(module) or module) for module in self.paths.modules)]
        self.nodes: list[Nodes] = []
        self.links: list[Links] = []
        self.count = 0
        self.pre: dict[Site, Float[Tensor, "token feature"]] = {}
        self.out = suite(trace, meet=lambda reading: self.pre.update({reading.site: reading.preactivations()}))
        self.plain = {
            site: suite[site].encoder.preactivations(suite[site].shift(read.flatten(0, 1)))
            for site, read in passes.true_inputs(suite, trace)
        }

    def build(self, most: int, probability: float) -> Exact:
        suite, trace = self.suite, self.trace
        position = torch.arange(trace.live.shape[1], device=trace.tokens.device)
        token = self._add(Nodes.make("token", position, level=0, number=trace.tokens[0], like=trace.embed))
        self.bias = self._add(Nodes.make("bias", position, level=0, like=trace.embed))
        errors = {module: self._add_errors(module) for module in (EMBED, *self.paths.modules)}
        self.base = Base(suite, trace, token=token, bias=self.bias, errors=errors)
        firings = [] if suite.source is None else [self._tokens(token)]
        for number, level in enumerate(self.paths.levels, start=1):
            sites = [site for site in map(suite.site_at, level) if site is not None]
            firings += [self._add_site(site, number, firings) for site in sites]
            for module in level:
                self.base.add(module)
        outputs = Outputs(suite, trace, self.out, chosen(suite, trace, most, probability))
        logits = self._add(outputs.nodes(len(self.paths.levels) + 1))
        self.links.append(outputs.links(logits, self.base, self.bias, errors, firings))
        return self._finish()

    def _add(self, nodes: Nodes) -> Int[Tensor, " node"]:
        """The numbers of these nodes in the graph."""
        self.nodes.append(nodes)
        self.count += len(nodes)
        return torch.arange(self.count - len(nodes), self.count, device=nodes.kind.device)

    def _add_errors(self, module: Module) -> Int[Tensor, " pos"]:
        """A module without a dictionary is read by all behind it; the error of another by the logits alone. -1 where
        there is no node."""
        suite, live = self.suite, self.trace.live[0]
        there = live.clone()
        if module == EMBED and (suite.source is None or suite.sink is None):
            there[:] = False
        elif module == EMBED or suite.site_at(module) is not None:
            there[:-1] = False
        position = there.nonzero()[:, 0]
        out = torch.full_like(live, -1, dtype=torch.long)
        place = 0 if module == EMBED else 1 + self.paths.modules.index(module)
        out[position] = self._add(Nodes.make("error", position, level=0, place=place, like=self.trace.embed))
        return out

    def _tokens(self, token: Int[Tensor, " pos"]) -> Firing:
        """The tokens as features of the source."""
        assert self.suite.source is not None
        code = self.suite.source.code(self.trace)
        return Firing(SOURCE, code.col, code.col, code.row, token[code.row], code.value)

    def _add_site(self, site: Site, level: int, upstream: list[Firing]) -> Firing:
        """The nodes of what is active there, and the edges into them."""
        suite, trace, path = self.suite, self.trace, self.suite.path(site)
        code = self.out.codes[site]
        code = code.entries(code.value > 0)
        at = code.row, code.col
        own = suite[site]
        unmoved = path.read(torch.zeros_like(trace.embed), trace)  # what is read where nothing is written: b_O
        alone = own.encoder.preactivations(own.shift(unmoved.flatten(0, 1)[:1]))[0, code.col]
        readers = Readers(torch.arange(self.count, self.count + len(code.col), device=code.col.device), *at[::-1])
        rows, unit = suite.reads(site)
        mover = path.mover(trace, unit)
        parts = from_streams(path, rows[code.col], mover, readers, self.base.streams)
        parts[:, 1].scatter_add_(1, code.row[:, None], alone[:, None])
        node = self._add(
            Nodes.make(
                "feature",
                code.row,
                level=level,
                place=1 + self.paths.modules.index(site.module),
                number=code.col,
                like=trace.embed,
                activation=code.value,
                preactivation=self.pre[site][at],
                plain=self.plain[site][at],
                constant=parts[:, 1].sum(1),
            )
        )
        self.links += [
            links_of(parts, readers, self.base.sources),
            from_features(suite, site, trace, readers, upstream),
        ]
        return Firing(site, code.col, code.col + suite.layout.offset(site), code.row, node, code.value)

    def _finish(self) -> Exact:
        nodes, links = Nodes.joined(self.places, self.nodes), Links.joined(self.links).nonzero()
        sums = [nodes.preactivation.new_zeros(len(nodes), dtype=torch.float64) for _ in range(2)]
        sums[0].index_add_(0, links.target, links.weight.double())
        sums[1].index_add_(0, links.target, links.weight.double().abs())
        explained = nodes.of("feature", "logit")
        off = (sums[0] - nodes.preactivation)[explained].abs()
        relative = (off / sums[1][explained].clamp_min(torch.finfo(torch.float64).tiny)).max()
        return Exact(nodes.cpu(), Links(*(column.cpu() for column in links)), float(off.max()), float(relative))
