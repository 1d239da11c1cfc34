"""The stages of an experiment, one row each; nothing here computes anything or imports torch.

    model ─► (activations ─►) pretrain ─► select ─► finetune ─► evaluate, analyze

A new stage is a row here, `make` in a file of its name below `scae/experiment/stages/`, and its name among
`scae.config.STAGES`. The plan, the execution and what a run writes read this table.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from scae.arms import RESULT
from scae.artifacts import Artifact
from scae.experiment.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One artifact of a stage.

    label: what the log calls it
    arguments: what `make` is told of it beyond the configuration
    counted: the name under which `metrics.json` has its time and its tokens; None: they are not counted
    """

    label: str
    artifact: Artifact
    arguments: tuple[Any, ...] = ()
    counted: str | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One stage.

    needs: the stages whose artifacts it reads
    pieces: what it makes for a plan, in order; the first is what a run is about, the others what that is compared with
    together: whether the processes of a distributed run make it at the same time; otherwise the first makes it for all
    resumes: whether it writes checkpoints, from which `ckpt_path` can go on
    reports: which of the first piece's facts are numbers for `metrics.json`; None: none
    noted: whether `run.json` says under "stages" where the first piece lies
    """

    name: str
    needs: tuple[str, ...]
    pieces: Callable[[Plan], Sequence[Piece]]
    together: bool
    resumes: bool
    reports: str | None
    noted: bool

    def work(self) -> Callable[..., dict[str, Any]]:
        """`make(workshop, folder, *arguments)`, which writes into the folder and returns facts; imports torch."""
        return import_module(f"scae.experiment.stages.{self.name}").make


def _model(plan: Plan) -> list[Piece]:
    return [Piece(label="model", artifact=plan.model, counted="model")] if plan.model is not None else []


def _activations(plan: Plan) -> list[Piece]:
    artifact = plan.activations
    return [Piece(label="activations", artifact=artifact, counted="activations")] if artifact is not None else []


def _pretrain(plan: Plan) -> list[Piece]:
    return [Piece(label="pretrain", artifact=plan.pretrain, counted="pretrain")]


def _select(plan: Plan) -> list[Piece]:
    return [
        Piece(
            label=f"select {selection.label}",
            artifact=plan.select(selection),
            arguments=(selection,),
            counted="select" if selection == plan.chosen else None,
        )
        for selection in plan.selections
    ]


def _finetune(plan: Plan) -> list[Piece]:
    pieces = []
    for arm in plan.arms:
        if arm.finetuned:
            label = "finetune" if arm == RESULT else arm.key
            one = plan.finetuned(arm)
            counted = "twins" if arm.twin else "finetune"
            pieces.append(Piece(label=label, artifact=plan.finetune(one), arguments=(one, label), counted=counted))
    return pieces


def _evaluate(plan: Plan) -> list[Piece]:
    return [Piece(label="evaluate", artifact=plan.evaluate, counted="evaluate")]


def _analyze(plan: Plan) -> list[Piece]:
    return [Piece(label="analyze", artifact=plan.analyze, counted="analyze")]


TABLE: tuple[Row, ...] = (
    Row(
        name="model",
        needs=(),
        pieces=_model,
        together=False,
        resumes=True,
        reports=None,
        noted=False,  # run.json has a section for the model, wherever it comes from
    ),
    Row(
        name="activations",
        needs=("model",),
        pieces=_activations,
        together=False,
        resumes=False,  # a store goes on with the shards that are there, without a checkpoint
        reports=None,
        noted=False,  # none without activations=stored; the pretrained suite says what it was made from
    ),
    Row(
        name="pretrain",
        needs=("activations", "model"),
        pieces=_pretrain,
        together=True,
        resumes=True,
        reports="statistics",
        noted=True,
    ),
    Row(
        name="select",
        needs=("pretrain",),
        pieces=_select,
        together=False,
        resumes=False,
        reports="statistics",
        noted=True,
    ),
    Row(
        name="finetune",
        needs=("select",),
        pieces=_finetune,
        together=True,
        resumes=True,
        reports="statistics",  # where connections have moved, theirs take the place of those of the selection
        noted=True,
    ),
    Row(
        name="evaluate",
        needs=("finetune",),
        pieces=_evaluate,
        together=False,
        resumes=False,
        reports="metrics",
        noted=True,
    ),
    Row(
        name="analyze",
        needs=("finetune",),
        pieces=_analyze,
        together=False,
        resumes=False,  # it goes on with the parts and files that are there, without a checkpoint
        reports="metrics",
        noted=True,
    ),
)


def row(name: str) -> Row:
    """The stage of this name."""
    return next(row for row in TABLE if row.name == name)


def made_by(plan: Plan, names: Iterable[str]) -> list[Artifact]:
    """The artifacts of these stages."""
    return [piece.artifact for name in names for piece in row(name).pieces(plan)]


def needed_for(names: Iterable[str]) -> list[Row]:
    """These stages and whatever they are made from, in order."""
    needed = set(names)
    for one in reversed(TABLE):
        if one.name in needed:
            needed |= set(one.needs)
    return [one for one in TABLE if one.name in needed]


def made_from(names: Iterable[str]) -> list[Row]:
    """These stages and whatever is made from them, in order."""
    made = set(names)
    for one in TABLE:
        if made & set(one.needs):
            made.add(one.name)
    return [one for one in TABLE if one.name in made]
