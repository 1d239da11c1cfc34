"""Look at the suite that the experiment is about: its activations on held-out text, its features and connections."""

import logging
from pathlib import Path
from typing import Any

from scae.analysis import Looking, Text, Wanted, analyze
from scae.experiment.workshop import Workshop
from scae.suite import Mode, Suite, thresholds

log = logging.getLogger(__name__)


def make(workshop: Workshop, folder: Path) -> dict[str, Any]:
    config, tokens = workshop.config, workshop.plan.analyzed
    text = Text.of(
        workshop.windows[1],
        tokens=tokens,
        batch_size=config.evaluation.batch_size,
        packing=config.data.packing,
    )
    looking = Looking(workshop.lm, _suites(workshop, tokens), text, folder)
    analysis = config.analysis
    wanted = Wanted(
        examples=analysis.examples,
        neighbours=analysis.neighbours,
        edges=analysis.edges,
        prompts=analysis.prompts,
        seed=config.seed,
    )
    return {"metrics": analyze(looking, wanted), "tokens": text.n_tokens}


def _suites(workshop: Workshop, tokens: int) -> dict[Mode, Suite]:
    """The suite as each pass runs it: one and the same, but where thresholds belong to a pass."""
    modes: tuple[Mode, ...] = ("pruned", "plain", "spliced") if workshop.plan.prunes else ("plain", "spliced")
    suite = workshop.suite(workshop.plan.suite.folder)
    suites: dict[Mode, Suite] = {}
    for mode in modes:
        if thresholds.foreign(suite, mode):
            log.info("analyze: thresholds of the %s pass are set on %d tokens of the training text", mode, tokens)
            suites[mode] = workshop.suite(workshop.plan.suite.folder)
            thresholds.learn(suites[mode], workshop.sample(tokens), mode)
        else:
            suites[mode] = suite
    return suites
