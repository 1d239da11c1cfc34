"""Of features to each other, and of connections to what they say: the last part of an analysis.

What is told of each feature is stored under the names of `scae.report.analysis_files.BETWEEN`; what is told of the
whole, as sections of analysis.json:

    clusters                                      features that fire together (`scae.analysis.clusters`)
    faithfulness, faithfulness_random             by pair of sites, what interventions do (`scae.analysis.faithfulness`)
    faithfulness_by_distance, ..._random          the same by the number of modules between, and `all` of it together
    scalar                                        how much few connections carry (`scae.analysis.scalar`)
    explained, explained_random                   what of the predictions circuits explain (`scae.analysis.prompts`)

The random twin has as many connections into each feature, on the same suite.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from scae.analysis.clusters import cluster
from scae.analysis.coactivation import coactive
from scae.analysis.faithfulness import effects
from scae.analysis.foretold import by_distance, by_pair, overall
from scae.analysis.prompts import explained
from scae.analysis.scalar import scalar
from scae.analysis.similarity import similar
from scae.analysis.sparse import Codes
from scae.analysis.streamed import Array
from scae.connections import Connections
from scae.core.typing import Bool, Tensor
from scae.lm import Trace
from scae.report.analysis_files import Tables
from scae.selection import shuffled
from scae.sites import Site
from scae.suite import Suite

log = logging.getLogger(__name__)
RELATED = 1 << 17  # tokens, at most, on which it is counted which features fire together
TRIED = 1 << 14  # tokens, at most, among which features are changed
SAMPLE = 1 << 11  # tokens, at most, on which the pruned pass runs once for every number of connections

Relations = dict[Site, dict[str, Array]]


@dataclass(frozen=True, kw_only=True)
class Known:
    """What there is when it is asked for.

    suite: as the last of the passes runs it; codes: by site, its activations in that pass, both ways; live: which
    positions are text, `[token]`; context: positions a window; traces: clean runs on the text, the same at every call;
    connected: whether the suite has connections, and not all there can be; neighbours, edges, prompts, seed: as
    configured.
    """

    suite: Suite
    codes: Mapping[Site, Tables]
    live: Bool[Tensor, " token"]
    context: int
    traces: Callable[[], Iterable[Trace]]
    connected: bool
    neighbours: int
    edges: int | None
    prompts: int | None
    seed: int


def relations(known: Known) -> tuple[Relations, dict[str, Any]]:
    """By site, similar_*, coactive_* and cluster of its features; and the section "clusters"."""
    suite, top, n_tokens = known.suite, known.neighbours, min(len(known.live), RELATED)
    if n_tokens < len(known.live):
        log.info("analyze: which features fire together is counted on the first %d tokens", n_tokens)
    codes = {site: Codes.stored(tables, n_tokens) for site, tables in known.codes.items()}
    near = similar(suite, top=top)
    together = coactive(codes, n_live=int(known.live[:n_tokens].sum()), top=top)
    ids, clusters = cluster(codes, together, window=torch.arange(n_tokens) // known.context)
    sites = suite.layout.sites
    place = torch.tensor([*map(sites.index, suite.sites), -1])  # the ends of the stream are sites, and not of these
    found: Relations = {}
    for site in suite.sites:
        like, along = near[site], together[site]
        tensors: dict[str, Tensor] = {
            "similar_site": place[like.site.cpu().long()].short(),
            "similar_feature": like.feature.int(),
            "similar_cosine": like.cosine,
            "coactive_site": place[along.site.cpu().long()].short(),
            "coactive_feature": along.feature.int(),
            "coactive_jaccard": along.jaccard.float(),
            "coactive_correlation": along.correlation.float(),
            "coactive_pmi": along.pmi.float(),
            "cluster": ids[site].int(),
        }
        found[site] = {name: np.asarray(value.cpu()) for name, value in tensors.items()}
    return found, {"clusters": [one.record() for one in clusters]}


def on_connections(known: Known) -> dict[str, Any]:
    """The sections on connections; none where there are none to be looked at."""
    if not known.connected:
        return {}
    chosen = known.suite.connections
    arms: dict[str, Connections] = {"": chosen, "_random": shuffled(chosen, seed=known.seed)}
    return _interventions(known, arms) | _circuits(known, arms)


def _interventions(known: Known, arms: Mapping[str, Connections]) -> dict[str, Any]:
    if known.edges is None:
        return {}
    log.info("analyze: connections are tried in the live model, and kept by strength")
    sections: dict[str, Any] = {"scalar": {}}
    text, few = (partial(_first, known, tokens) for tokens in (TRIED, SAMPLE))
    for name, connections in arms.items():
        found = effects(known.suite, text, edges=known.edges, seed=known.seed, mode="pruned", connections=connections)
        sections[f"faithfulness{name}"] = by_pair(found)
        told = {"distances": by_distance(found), "all": overall(found)}
        sections[f"faithfulness_by_distance{name}"] = told
        sections["scalar"][name.removeprefix("_") or "pruned"] = scalar(known.suite, few, connections=connections)
    return sections


def _circuits(known: Known, arms: Mapping[str, Connections]) -> dict[str, Any]:
    if known.prompts is None:
        return {}
    log.info("analyze: circuits of %d prompts", known.prompts)
    few = partial(explained, known.suite, prompts=known.prompts)
    return {f"explained{name}": few(known.traces(), connections=arm) for name, arm in arms.items()}


def _first(known: Known, tokens: int) -> Iterable[Trace]:
    """The first batches of the text, about so many tokens."""
    for trace in known.traces():
        yield trace
        tokens -= trace.tokens.numel()
        if tokens <= 0:
            return
