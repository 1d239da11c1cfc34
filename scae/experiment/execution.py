"""An experiment: bring its artifacts up to date in order, then write the run directory.

A finished stage is reused, an interrupted one resumes from its checkpoint, and a command that has been run before only
prints its result. A stage that is forced is computed again with everything that is made from it.
"""

import logging
import shutil
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from scae.artifacts import is_first_process, leading, writing
from scae.artifacts.checkpoints import CHECKPOINT, read_identity
from scae.artifacts.job import launched_by_others
from scae.config import Config, ConfigError, unprunable
from scae.core.failures import ArtifactError, some
from scae.core.memory import keep_freed_memory
from scae.experiment.plan import Plan
from scae.experiment.results import write_results
from scae.experiment.separator import settle
from scae.experiment.table import TABLE, Piece, Row, made_by, made_from, needed_for

log = logging.getLogger(__name__)


def run(config: Config) -> float | None:
    """Run the stages asked for, with what they need; returns `optimized_metric` where it is known."""
    from scae.training.devices import check_devices  # imports torch

    check_devices(config.trainer)
    with _speaking(config):
        plan = Plan(settle(config))
        if is_first_process():
            for reason in unprunable(config):
                log.info("this suite is not pruned: %s", reason)
            discard_forced(plan)
            refuse_damaged(plan)
        if config.ckpt_path is not None:
            adopt_checkpoint(plan, Path(config.ckpt_path))
        Execution(plan).up_to(config.stages)
    if not {"evaluate", "analyze"} & set(config.stages) or not is_first_process():
        return None
    with writing(Path(config.paths.output)):
        metrics = write_results(plan)
    if "evaluate" not in config.stages:  # nothing was compared, so there is nothing to optimise
        return None
    if config.optimized_metric not in metrics:
        raise ConfigError(
            f"optimized_metric={config.optimized_metric}: not among the metrics; allowed: {some(list(metrics), 40)}"
        )
    return metrics[config.optimized_metric]


def _speaking(config: Config) -> AbstractContextManager[None]:
    """Where a job has several processes, the first tells the others what it decides."""
    trainer = config.trainer
    several = trainer.devices != 1 or trainer.num_nodes != 1 or trainer.strategy != "auto" or launched_by_others()
    return leading(Path(config.paths.artifacts)) if several and is_first_process() else nullcontext()


def discard_forced(plan: Plan) -> None:
    """Remove what the forced stages make and all that is made from it; in a sweep, once for all jobs."""
    forced = plan.config.force
    if forced:
        for artifact in made_by(plan, (row.name for row in made_from(forced))):
            artifact.discard()


def refuse_damaged(plan: Plan) -> None:
    """Raises ArtifactError where a finished stage has lost a file, before anything is computed from it."""
    for row in needed_for(plan.config.stages):
        for artifact in made_by(plan, [row.name]):
            if artifact.is_complete and (damage := artifact.damage()):
                stages = plan.config.stages
                more = "" if row.name in stages else f"stages=[{','.join([row.name, *stages])}] "
                raise ArtifactError(f"{damage}; {more}force=[{row.name}] makes it again")


class Execution:
    """Builds the artifacts of a plan."""

    def __init__(self, plan: Plan) -> None:
        from scae.experiment.workshop import Workshop  # imports torch

        keep_freed_memory()
        self.plan = plan
        self.workshop = Workshop(plan.config, plan)

    def up_to(self, wanted: Iterable[str]) -> None:
        """Build the stages wanted, in order, and whatever they are made from."""
        for row in needed_for(wanted):
            for piece in row.pieces(self.plan):
                self._build(row, piece)

    def _build(self, row: Row, piece: Piece) -> None:
        work = row.work()  # imported before the clock of the stage starts

        def make(folder: Path) -> dict[str, Any]:
            return work(self.workshop, folder, *piece.arguments)

        artifact = piece.artifact
        was_there = artifact.is_complete
        artifact.build(make, together=row.together)
        if was_there:
            log.info("%s: reused from %s", piece.label, artifact.folder)
        else:
            log.info("%s: done in %.0f s, %s", piece.label, artifact.facts()["seconds"], artifact.folder)


def adopt_checkpoint(plan: Plan, checkpoint: Path) -> None:
    """Put a checkpoint where its stage looks for one; raises ConfigError where no stage of this experiment wrote it."""
    artifact_name = read_identity(checkpoint).get("artifact")
    artifacts = {artifact.name: artifact for artifact in made_by(plan, (row.name for row in TABLE if row.resumes))}
    if artifact_name not in artifacts:
        raise ConfigError(
            f"ckpt_path={checkpoint}: a checkpoint of another configuration ({artifact_name}); "
            f"this one has {', '.join(artifacts)}"
        )
    artifact = artifacts[artifact_name]
    if artifact.is_complete:
        log.info("ckpt_path: %s is complete already, nothing to resume", artifact.folder)
    elif is_first_process() and checkpoint.resolve() != (artifact.partial / CHECKPOINT).resolve():
        with writing(artifact.partial):
            artifact.partial.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(checkpoint, artifact.partial / CHECKPOINT)
