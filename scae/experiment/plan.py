"""The artifacts of an experiment and what each depends on; nothing here computes anything or imports torch.

    model ─► (activations ─►) pretrain ─► select ─► finetune ─► evaluate, analyze

What an artifact's name covers is decided here, and it is exactly what determines its content: of each section of the
configuration the keys that are active (`scae.config.active`). So a sweep over C shares everything up to the selection,
and the twins that do not depend on C are shared by the whole sweep.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from scae.arms import ARMS, RESULT, Arm, Pass
from scae.artifacts import Artifact, fingerprint
from scae.config import Config, Connectivity, LocalModel, Loss, Regrow, Stage, StoredActivations, TinyModel, unprunable
from scae.config.active import active
from scae.config.loss import WANTS
from scae.data import corpus_fingerprint, windows_of
from scae.interop.found import found_to_begin

VERSIONS: dict[Stage, int] = {
    "model": 1,
    "activations": 1,
    "pretrain": 2,
    "select": 3,
    "finetune": 2,
    "evaluate": 2,
    "analyze": 1,
}
"""Part of the name of whatever a stage makes. Raise the number of a stage when the same configuration gives another
result than before (a bug is fixed, a default inside the code changes, a file gets another format), so that nobody goes
on with what the old code made; not when only speed, memory or the log change. What follows is renamed with it."""


@dataclass(frozen=True)
class Selection:
    """A choice of connections, or its control: as many into each feature, from upstream features drawn at random."""

    connectivity: Connectivity
    shuffled: bool = False

    @property
    def label(self) -> str:
        return "random" if self.shuffled else self.connectivity.method


@dataclass(frozen=True)
class Finetuned:
    """A suite to be finetuned: in which pass, along which connections where it has any, and whether they move."""

    selection: Selection | None
    mode: Pass
    regrow: Regrow | None = None


class Plan:
    """Names every artifact of a configuration."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.root = Path(config.paths.artifacts)

    @cached_property
    def prunes(self) -> bool:
        """Whether the suite gets connections: whether the pruned pass serves it."""
        return not any(unprunable(self.config))

    @cached_property
    def data(self) -> dict[str, Any]:
        """The text, by its content: where it lies is left out."""
        return {"data": windows_of(self.config.data), "corpus": corpus_fingerprint(self.config.data)}

    @cached_property
    def model(self) -> Artifact | None:
        """The embedded model, trained here; None where the model comes from elsewhere."""
        if not isinstance(self.config.model, TinyModel):
            return None
        return self.artifact("model", self.data | {"model": active(self.config.model), "seed": self.config.seed})

    @cached_property
    def model_identity(self) -> Any:
        model = self.config.model
        if self.model is not None:
            return self.model.name
        if isinstance(model, LocalModel):
            return active(model) | {"local": fingerprint(Path(model.path))}
        return active(model)

    @cached_property
    def activations(self) -> Artifact | None:
        """What the sites read and write, stored; None where the model runs on every batch."""
        config = self.config
        if not isinstance(config.activations, StoredActivations):
            return None
        kept = active(config.activations) | {"tokens": None, "windows": self.windows_kept}
        sites = {key: value for key, value in active(config.sites).items() if key not in ("embed", "unembed")}
        made_from = self.data | {"activations": kept, "sites": sites, "precision": config.trainer.precision}
        return self._of_model("activations", made_from)

    @property
    def windows_kept(self) -> int:
        """How many windows a store is to hold; there may be fewer."""
        config = self.config
        assert isinstance(config.activations, StoredActivations)
        if config.activations.tokens is not None:
            return max(1, config.activations.tokens // config.data.context)
        return config.pretrain.steps * config.trainer.accumulate * config.pretrain.batch_size

    @cached_property
    def pretrain(self) -> Artifact:
        config = self.config
        made_from = self.data | {"training": active(config.pretrain) | {"loss": self._loss(config.pretrain.loss)}}
        made_from |= {"sites": active(config.sites), "sae": active(config.sae)} | self._trainer()
        if config.pretrain.init_from is not None:
            made_from["init_from"] = found_to_begin(config.pretrain.init_from).fingerprint
        upstream = [self.activations.name] if self.activations is not None else []
        return self._of_model("pretrain", made_from, *upstream)

    def select(self, selection: Selection) -> Artifact:
        connectivity = selection.connectivity
        if selection.shuffled:
            degrees_of = self.select(Selection(connectivity))
            return self.artifact("select", {"shuffled": True, "seed": self.config.seed}, degrees_of.name)
        made_from = active(connectivity) | {"seed": self.config.seed}
        if connectivity.method == "file":
            made_from["file"] = fingerprint_file(Path(connectivity.path or ""))
        return self.artifact("select", made_from, self.pretrain.name)

    def finetune(self, one: Finetuned) -> Artifact:
        config = self.config
        made_from = {
            "training": active(config.finetune) | {"regrow": active(one.regrow) if one.regrow else None},
            "loss": self._loss(config.loss),
            "mode": one.mode,
        }
        upstream = [self.pretrain.name] + ([self.select(one.selection).name] if one.selection else [])
        return self.artifact("finetune", made_from | self._trainer(), *upstream)

    @property
    def arms(self) -> tuple[Arm, ...]:
        """What the evaluation compares. Where nothing is pruned, the live model says what reconstructions do to it."""
        if not self.prunes:
            return tuple(arm for arm in ARMS if arm.unpruned)
        return tuple(arm for arm in ARMS if arm.mode != "spliced" and (self.config.evaluation.twins or not arm.twin))

    def selection(self, arm: Arm) -> Selection | None:
        """The connections that have to be there before an arm's suite can run; None: none have."""
        connectivity = self.config.connectivity
        if arm.mode != "pruned":
            return None
        if arm.connections == "chosen":
            return Selection(connectivity)
        if arm.connections == "random":
            fixed = connectivity.method in ("all", "none")  # these are what they are
            return Selection(connectivity, shuffled=not fixed)
        return Selection(connectivity.model_copy(update={"method": arm.connections}))

    def finetuned(self, arm: Arm) -> Finetuned:
        """What the suite of a finetuned arm is. Connections that were given or drawn at random do not move, and
        neither do those of the twins: of `random` they would be random no more."""
        regrow = self.config.finetune.regrow
        moves = not arm.twin and regrow.every is not None and self.config.connectivity.method == "contribution"
        return Finetuned(self.selection(arm), arm.mode, regrow if moves else None)

    @property
    def pruned(self) -> Finetuned:
        """The suite that the experiment is about."""
        return self.finetuned(RESULT)

    @property
    def suite(self) -> Artifact:
        """Where it lies."""
        return self.finetune(self.pruned) if self.prunes else self.pretrain

    @property
    def chosen(self) -> Selection:
        """The connections that the experiment is about."""
        return Selection(self.config.connectivity)

    @property
    def twins(self) -> dict[str, Finetuned]:
        """Suites finetuned in the same way, without which no claim about the connections can be made."""
        return {arm.key: self.finetuned(arm) for arm in self.arms if arm.twin}

    @cached_property
    def evaluate(self) -> Artifact:
        upstream = [artifact.name for arm in self.arms if (artifact := self._behind(arm)) is not None]
        upstream = upstream if self.prunes else [self.pretrain.name]
        return self.artifact("evaluate", {"evaluation": active(self.config.evaluation)}, *upstream)

    @cached_property
    def analyze(self) -> Artifact:
        made_from = {"analysis": active(self.config.analysis) | {"tokens": self.analyzed}, "seed": self.config.seed}
        return self.artifact("analyze", made_from, self.suite.name)

    @property
    def analyzed(self) -> int:
        """How many held-out tokens are looked at."""
        tokens = self.config.analysis.tokens
        return self.config.evaluation.tokens if tokens is None else tokens

    def _behind(self, arm: Arm) -> Artifact | None:
        """What an arm's suite is read from; None where the evaluation is made from it anyway, behind another arm."""
        if arm.finetuned:
            return self.finetune(self.finetuned(arm))
        selection = self.selection(arm)
        return None if selection is None or arm.connections == RESULT.connections else self.select(selection)

    @property
    def selections(self) -> list[Selection]:
        """Every choice of connections that some arm needs, each once."""
        return list(dict.fromkeys(selection for arm in self.arms if (selection := self.selection(arm))))

    def artifact(self, stage: Stage, made_from: dict[str, Any], *upstream: str) -> Artifact:
        """What a stage makes from these values and these artifacts."""
        return Artifact(self.root, stage, made_from, upstream, VERSIONS[stage])

    def _of_model(self, stage: Stage, made_from: dict[str, Any], *upstream: str) -> Artifact:
        """The same, made from the model as well."""
        if self.model is not None:
            return self.artifact(stage, made_from, self.model.name, *upstream)
        return self.artifact(stage, made_from | {"model": self.model_identity}, *upstream)

    def _loss(self, loss: Loss) -> dict[str, Any]:
        """Its terms, without one that this type of dictionary has nothing for; with what its dead features are."""
        offers = self.config.sae.offers
        terms = {term: value for term, value in active(loss).items() if WANTS.get(term) in {None, *offers}}
        if "auxk" in terms:
            terms["auxk"] |= active(self.config.sae.auxk)
        return terms

    def _trainer(self) -> dict[str, Any]:
        return {"trainer": active(self.config.trainer), "seed": self.config.seed}


def fingerprint_file(path: Path) -> str:
    """A hash of the content of one file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
