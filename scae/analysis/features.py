"""`features/<site>.safetensors`: what is known of the features of one site, put together."""

from collections.abc import Mapping, Sequence

import numpy as np

from scae.analysis.agreement import agreement
from scae.analysis.database import Array
from scae.analysis.statistics import Extent, statistics
from scae.report.analysis_files import ALIVE, NEVER_FIRED, NO_INPUT, PLAIN_ONLY, Tables


def of_activations(codes: Sequence[Tables], extent: Extent, *, examples: int, seed: int) -> dict[str, Array]:
    """What the codes of a site say, one file a pass: statistics of each pass, and how much two passes agree."""
    by_pass = [statistics(one, extent, examples=examples, seed=seed) for one in codes]
    found = {name: np.stack([one[name] for one in by_pass]) for name in by_pass[0]}
    return found | (agreement(codes[0], codes[1], extent.n_live) if len(codes) > 1 else {})


def states(rate: Array, degrees: Array | None) -> Array:
    """`state` by feature. rate: `[pass, feature]`; degrees: how many connections come in, None where none could."""
    fires = rate > 0
    found = np.full(rate.shape[1], ALIVE, dtype=np.int8)
    if degrees is not None:
        found[fires[-1] & (degrees == 0)] = NO_INPUT
    found[fires[0] & ~fires[-1]] = PLAIN_ONLY
    found[~fires.any(0)] = NEVER_FIRED
    return found


def counts(tables: Mapping[str, Array], number: int) -> dict[str, int]:
    """How many features of a site are dead in the pass of this number, and of which kinds the dead and others are."""
    state = tables["state"]
    kinds = {"never_fired": NEVER_FIRED, "plain_only": PLAIN_ONLY, "no_input": NO_INPUT}
    found = {"dead": int((tables["rate"][number] == 0).sum())}
    return found | {name: int((state == kind).sum()) for name, kind in kinds.items()}


def density(rate: Array, n_live: int) -> dict[str, list[float]]:
    """`edges` of log10 of the rate, four to a decade from the smallest that so many tokens can show, and the `counts`
    between them."""
    decades = int(np.ceil(np.log10(n_live)))
    edges = np.linspace(-decades, 0, 4 * decades + 1) if decades else np.array([-1.0, 0.0])
    return {"edges": edges.tolist(), "counts": np.histogram(np.log10(rate[rate > 0]), edges)[0].tolist()}
