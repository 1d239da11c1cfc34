"""An experiment: bring its artifacts up to date in order, then write the run directory.

A finished stage is reused, an interrupted one resumes from its checkpoint, and a command that has been run before only
prints its result. A stage that is forced is computed again with everything that is made from it.
"""

import json
import logging
import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from scae.artifacts import Artifact, Make, is_first_process, leading, writing
from scae.artifacts.job import launched_by_others
from scae.checkpoints import CHECKPOINT, read_identity
from scae.config import STAGES, Config, ConfigError, Stage, TinyModel
from scae.failures import ArtifactError, some
from scae.memory import keep_freed_memory
from scae.plan import Plan
from scae.report import arms_table, print_remarks, remarks, terminal, write_run
from scae.separator import settle
from scae.whole_files import write_text

log = logging.getLogger(__name__)


def run(config: Config) -> float | None:
    """Run the stages asked for, with what they need; returns `optimized_metric` where it is known."""
    from scae.training.devices import check_devices  # imports torch

    check_devices(config.trainer)
    with _speaking(config):
        plan = Plan(settle(config))
        if is_first_process():
            discard_forced(plan)
            refuse_damaged(plan)
        if config.ckpt_path is not None:
            adopt_checkpoint(plan, Path(config.ckpt_path))
        Execution(plan).up_to(config.stages)
    if "evaluate" not in config.stages or not is_first_process():
        return None
    with writing(Path(config.paths.output)):
        metrics = write_results(plan)
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
        for artifact in plan.made_by(STAGES[min(map(STAGES.index, forced)) :]):
            artifact.discard()


def refuse_damaged(plan: Plan) -> None:
    """Raises ArtifactError where a finished stage has lost a file, before anything is computed from it."""
    last = max(map(STAGES.index, plan.config.stages))
    for stage in STAGES[: last + 1]:
        for artifact in plan.made_by([stage]):
            if artifact.is_complete and (damage := artifact.damage()):
                stages = plan.config.stages
                more = "" if stage in stages else f"stages=[{','.join([stage, *stages])}] "
                raise ArtifactError(f"{damage}; {more}force=[{stage}] makes it again")


class Execution:
    """Builds the artifacts of a plan."""

    def __init__(self, plan: Plan) -> None:
        from scae.stages import Stages  # imports torch

        keep_freed_memory()
        self.plan = plan
        self.stages = Stages(plan.config, plan)

    def up_to(self, wanted: list[Stage]) -> None:
        """Build the stages wanted, in order, and whatever they are made from."""
        last = max(STAGES.index(stage) for stage in wanted)
        for stage in STAGES[: last + 1]:
            getattr(self, f"_{stage}")()

    def _model(self) -> None:
        if self.plan.model is not None:
            self._build("model", self.plan.model, self.stages.model)

    def _pretrain(self) -> None:
        self._build("pretrain", self.plan.pretrain, self.stages.pretrain, together=True)

    def _select(self) -> None:
        for selection in self.plan.selections:
            make = partial(self.stages.select, selection)
            self._build(f"select {selection.label}", self.plan.select(selection), make)

    def _finetune(self) -> None:
        for name, one in ({"finetune": self.plan.pruned} | self.plan.twins).items():
            make = partial(self.stages.finetune, one, name)
            self._build(name, self.plan.finetune(one), make, together=True)

    def _evaluate(self) -> None:
        self._build("evaluate", self.plan.evaluate, self.stages.evaluate)

    def _build(self, stage: str, artifact: Artifact, make: Make, *, together: bool = False) -> None:
        was_there = artifact.is_complete
        artifact.build(make, together=together)
        if was_there:
            log.info("%s: reused from %s", stage, artifact.folder)
        else:
            log.info("%s: done in %.0f s, %s", stage, artifact.facts()["seconds"], artifact.folder)


def adopt_checkpoint(plan: Plan, checkpoint: Path) -> None:
    """Put a checkpoint where its stage looks for one; raises ConfigError where no stage of this experiment wrote it."""
    artifact_name = read_identity(checkpoint).get("artifact")
    artifacts = {artifact.name: artifact for artifact in plan.made_by(["model", "pretrain", "finetune"])}
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


def write_results(plan: Plan) -> dict[str, float]:
    """metrics.json, run.json, report.md and a picture in the run directory; prints the table."""
    output = Path(plan.config.paths.output)
    metrics = collect_metrics(plan)
    for name, content in (("metrics.json", metrics), ("run.json", describe_run(plan, output))):
        write_text(output / name, json.dumps(content, indent=2) + "\n")
    report = write_run(output)
    console = terminal()
    console.print(arms_table(metrics))
    print_remarks(console, remarks(metrics))
    console.print(
        f"report   {report}\nmetrics  {output / 'metrics.json'}\nsuite    {plan.finetune(plan.pruned).folder}"
    )
    return metrics


def collect_metrics(plan: Plan) -> dict[str, float]:
    """The metrics of the evaluation, the statistics of the connections, and what every stage took."""
    metrics: dict[str, float] = dict(plan.evaluate.facts()["metrics"])
    metrics |= plan.select(plan.chosen).facts()["statistics"]
    metrics |= plan.finetune(plan.pruned).facts().get("statistics", {})  # there where connections have moved
    parts = {
        "model": [plan.model] if plan.model else [],
        "pretrain": [plan.pretrain],
        "select": [plan.select(plan.chosen)],
        "finetune": [plan.finetune(plan.pruned)],
        "twins": [plan.finetune(twin) for twin in plan.twins.values()],
        "evaluate": [plan.evaluate],
    }
    for stage, artifacts in parts.items():
        if artifacts:
            metrics[f"time/{stage}"] = sum(artifact.facts()["seconds"] for artifact in artifacts)
            metrics[f"tokens/{stage}"] = sum(artifact.facts()["tokens"] for artifact in artifacts)
    return metrics


def describe_run(plan: Plan, output: Path) -> dict[str, Any]:
    """Where the artifacts of a run lie, relative to the run directory, and what its windows were."""

    def relative(path: Path) -> str:
        return os.path.relpath(path.resolve(), output.resolve())

    model = plan.config.model
    if isinstance(model, TinyModel):
        assert plan.model is not None
        source: dict[str, Any] = {"path": relative(plan.model.folder), "revision": None}
    elif model.kind == "local":
        source = {"path": relative(Path(model.path)), "revision": None}
    else:
        source = {"name": model.name, "revision": model.revision}
    stages = {
        "pretrain": plan.pretrain,
        "select": plan.select(plan.chosen),
        "finetune": plan.finetune(plan.pruned),
        "evaluate": plan.evaluate,
    }
    data = plan.config.data
    return {
        "data": {"separator": data.separator, "attend_across": data.attend_across},
        "model": source | {"dtype": model.dtype, "prepend_bos": data.prepend_bos},
        "stages": {stage: relative(artifact.folder) for stage, artifact in stages.items()},
    }
