"""Of features to each other, and of connections: where the analysis asks for what is known of them.

What is found is stored under the names of `scae.report.analysis_files.BETWEEN`, by feature, and in sections of
`analysis.json`. A function that has nothing to say gives nothing.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from scae.analysis.streamed import Array
from scae.core.typing import Bool, Tensor
from scae.lm import LanguageModel, Trace
from scae.report.analysis_files import Tables
from scae.sites import Site
from scae.suite import Suite

Relations = dict[Site, dict[str, Array]]


@dataclass(frozen=True, kw_only=True)
class Known:
    """What there is when it is asked for.

    suite: as the last of the passes runs it; codes: by site, its activations in that pass, both ways; live: which
    positions are text, `[token]`; context: positions a window; traces: clean runs on the text, the same at every call;
    connected: whether the suite has connections, and not all there can be; neighbours, edges, seed: as configured.
    """

    lm: LanguageModel
    suite: Suite
    codes: Mapping[Site, Tables]
    live: Bool[Tensor, " token"]
    context: int
    traces: Callable[[], Iterable[Trace]]
    connected: bool
    neighbours: int
    edges: int | None
    seed: int


def relations(known: Known) -> tuple[Relations, dict[str, Any]]:
    """By site, similar_*, coactive_* and cluster of its features; and the section "clusters"."""
    return {}, {}


def interventions(known: Known) -> dict[str, Any]:
    """The sections "faithfulness", "faithfulness_random" and "scalar"."""
    return {}
