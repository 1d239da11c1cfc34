"""Of features to each other: where the analysis asks for what is known between features, and of its connections.

Every function gets what it needs and may give nothing; what it gives is stored under the names of
`scae.report.analysis_files.BETWEEN`, and as sections of `analysis.json`.
"""

from collections.abc import Mapping
from typing import Any

from scae.analysis.database import Array
from scae.kernels import SparseCode
from scae.sites import Site
from scae.suite import Suite

Relations = dict[Site, dict[str, Array]]


def relations(suite: Suite, codes: Mapping[Site, SparseCode], *, top: int) -> tuple[Relations, dict[str, Any]]:
    """By site, similar_*, coactive_* and cluster of its features; and the section "clusters".

    codes: of the last of the passes, over the live tokens.
    """
    return {}, {}
