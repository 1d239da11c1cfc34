"""Choose the connections, or draw as many at random."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

from scae.experiment.plan import Selection
from scae.experiment.workshop import Workshop
from scae.selection import choose, describe, shuffled
from scae.suite import thresholds

log = logging.getLogger(__name__)


def make(workshop: Workshop, folder: Path, selection: Selection) -> dict[str, Any]:
    connectivity, seed = selection.connectivity, workshop.config.seed
    if selection.shuffled:
        connections = shuffled(workshop.connections(Selection(connectivity)), seed=seed)
        stats = describe(connections)
    else:
        suite = workshop.suite(workshop.plan.pretrain.folder)
        sample = partial(workshop.sample, connectivity.tokens)
        thresholds.learn(suite, sample(), "plain")  # the pass that scores are taken in
        connections, stats = choose(connectivity, suite, sample, seed=seed)
    connections.save(folder / "connections.safetensors")
    log.info(
        "select: %s, %d connections, in-degree %.1f on average",
        selection.label,
        len(connections),
        stats["connectivity/in_degree_mean"],
    )
    measured = selection.label == "contribution"
    return {"statistics": stats, "tokens": connectivity.tokens if measured else 0}
