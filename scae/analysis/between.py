"""Of features to each other, and of connections to what they say: the last part of an analysis.

What is told of each feature is stored under the names of `scae.report.analysis_files.BETWEEN`; what is told of the
whole, as sections of analysis.json:

    clusters                                      features that fire together (`scae.analysis.clusters`)
    faithfulness, faithfulness_random             by pair of sites, what interventions do (`scae.analysis.faithfulness`)
    faithfulness_by_distance, ..._random          the same by the number of modules between, and `all` of it together
    scalar                                        how much few connections carry (`scae.analysis.scalar`)

The random twin has as many connections into each feature, on the same suite.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from scae.analysis.clusters import cluster
from scae.analysis.coactivation import coactive
from scae.analysis.database import Array
from scae.analysis.faithfulness import by_distance, by_pair, effects, overall
from scae.analysis.scalar import scalar
from scae.analysis.similarity import similar
from scae.analysis.sparse import Codes
from scae.connections import Connections
from scae.core.typing import Int, Tensor
from scae.selection import Traces, shuffled
from scae.sites import Site
from scae.suite import Suite

Relations = dict[Site, dict[str, Array]]


def relations(
    suite: Suite, codes: Mapping[Site, Codes], *, n_live: int, window: Int[Tensor, " token"], top: int
) -> tuple[Relations, dict[str, Any]]:
    """By site, similar_*, coactive_* and cluster of its features; and the section "clusters".

    codes: of the last of the passes; window: of each token; top: neighbours that are kept.
    """
    near, together = similar(suite, top=top), coactive(codes, n_live=n_live, top=top)
    ids, clusters = cluster(codes, together, window=window)
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


def tried(suite: Suite, text: Traces, few: Traces, *, edges: int, seed: int) -> dict[str, Any]:
    """The sections on connections. text: on which features are changed; few: on which the pruned pass runs once for
    every number of connections; edges: that are tried between two sites."""
    sections: dict[str, Any] = {"scalar": {}}
    arms: dict[str, Connections] = {"": suite.connections, "_random": shuffled(suite.connections, seed=seed)}
    for name, connections in arms.items():
        found = effects(suite, text, edges=edges, seed=seed, mode="pruned", connections=connections)
        sections[f"faithfulness{name}"] = by_pair(found)
        told = {"distances": by_distance(found), "all": overall(found)}
        sections[f"faithfulness_by_distance{name}"] = told
        sections["scalar"][name.removeprefix("_") or "pruned"] = scalar(suite, few, connections=connections)
    return sections
