"""The edges into the model's own next-token logits at the last position.

    logit_v - mean over v = (U_v - mean U) . P r / s + b_v - mean b         r the model's final stream, s its own scale
    r                     = embedding + constants + features' decoder rows + errors

Every feature writes to the logits directly. An error is a module's own output less its reconstruction, so that the
edges sum to what the model itself has computed. Centring over the vocabulary changes no prediction.

Where the suite has a sink (`sites.unembed`), features reach a logit along its stored connections alone: what the others
of a site write is part of the error there, and nothing is centred, as each logit has connections of its own. A cap on
logits (Gemma 2) comes after what is summed here.
"""

from collections.abc import Sequence

import torch

from scae.attribution.base import Base
from scae.attribution.links import Firing, Links, Readers, from_features, from_streams, links_of
from scae.attribution.nodes import Nodes
from scae.core.typing import Float, Int, Tensor
from scae.lm import UNEMBED, Module, Trace
from scae.sites import SINK
from scae.suite import Suite, SuiteOutput


def own_logits(suite: Suite, trace: Trace) -> Float[Tensor, " vocab"]:
    """Of the model at the last position, before they are capped."""
    paths = suite.lm.paths
    return (SINK.path(paths).read(trace.stream(paths.modules), trace)[0, -1] @ paths.W_U) + paths.b_U


def chosen(suite: Suite, trace: Trace, most: int, probability: float) -> Int[Tensor, " logit"]:
    """The most probable next tokens of the model: as many as it takes to reach `probability`, `most` at most."""
    likely = suite.lm.paths.capped(own_logits(suite, trace)).softmax(0)
    likely, token = likely.topk(min(most, len(likely)))
    before = likely.cumsum(0) - likely
    return token[before < probability]


class Outputs:
    """tokens: `[logit]` of which next tokens; predicted: what the pruned pass itself gives them for a probability."""

    def __init__(self, suite: Suite, trace: Trace, out: SuiteOutput, tokens: Int[Tensor, " logit"]) -> None:
        paths = suite.lm.paths
        self.suite, self.trace, self.out, self.tokens = suite, trace, out, tokens
        self.path = SINK.path(paths)
        self.mover = self.path.mover(trace, trace.embed.new_ones(()))
        self.rows, self.own_bias = paths.W_U.T[tokens], paths.b_U[tokens]
        own = own_logits(suite, trace)
        self.probability, self.logits = paths.capped(own).softmax(0)[tokens], own[tokens]
        if suite.sink is None:
            self.rows = self.rows - paths.W_U.mean(1)
            self.own_bias, self.logits = self.own_bias - paths.b_U.mean(), self.logits - own.mean()
        pruned = paths.logits(out.residual()) if out.logits is None else out.logits
        self.predicted = pruned[0, -1].softmax(0)[tokens]

    def nodes(self, level: int) -> Nodes:
        return Nodes.make(
            "logit",
            torch.full_like(self.tokens, self.last),
            level=level,
            number=self.tokens,
            like=self.trace.embed,
            preactivation=self.logits,
            probability=self.probability,
            predicted=self.predicted,
        )

    @property
    def last(self) -> int:
        return self.trace.live.shape[1] - 1

    def links(
        self,
        node: Int[Tensor, " logit"],
        base: Base,
        bias: Int[Tensor, " pos"],
        errors: dict[Module, Int[Tensor, " pos"]],
        firings: Sequence[Firing],
    ) -> Links:
        """All edges into the logits, which are these nodes."""
        readers = Readers(node, self.tokens, torch.full_like(node, self.last))
        parts = from_streams(self.path, self.rows, self.mover, readers, base.streams)
        parts[:, 1, self.last] += self.own_bias
        found = [links_of(parts, readers, base.sources)]
        error = {site.module: self._error(site.module) for site in self.suite.sites}
        firings = [one.at(self.last) for one in firings]
        if self.suite.sink is None:
            found += [_dense(self._direct(one), one.node, node) for one in firings]
        else:
            stored = from_features(self.suite, SINK, self.trace, readers, firings)
            found.append(stored)
            for one in firings:
                along = torch.isin(stored.source, one.node)
                arrived = torch.zeros_like(self.logits).index_add(
                    0, stored.target[along] - node[0], stored.weight[along]
                )
                left_out = self._direct(one).sum(1) - arrived
                error[one.site.module] = error.get(one.site.module, 0) + left_out
        found += [_dense(weight[:, None], errors[module][-1:], node) for module, weight in error.items()]
        return Links.joined(found)

    def _direct(self, firing: Firing) -> Float[Tensor, "logit firing"]:
        """What each of these features writes to each logit."""
        rows, scale = self.suite.writes(firing.site, UNEMBED)
        return self._read(rows[firing.feature] * (scale * firing.value)[:, None])

    def _error(self, module: Module) -> Float[Tensor, " logit"]:
        """0 where the model's own output stands in the pass, too."""
        return self._read((self.trace.outputs[module] - self.out.outputs[module])[0, -1:])[:, 0]

    def _read(self, streams: Float[Tensor, "some d_model"]) -> Float[Tensor, "logit some"]:
        return self.path.readers(self.rows)[:, 0] @ self.path.writers(streams)[:, 0].T * self.mover[self.last]


def _dense(weight: Float[Tensor, "logit some"], source: Int[Tensor, " some"], target: Int[Tensor, " logit"]) -> Links:
    keep = (source >= 0).expand_as(weight)
    return Links(source.expand_as(weight)[keep], target[:, None].expand_as(weight)[keep], weight[keep])
