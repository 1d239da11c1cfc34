"""What each stage of an experiment does, once its inputs are there."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import lightning
import torch

from scae.artifacts import is_first_process
from scae.config import Config, ConfigError, LocalModel, TinyModel, Training, shape_problems
from scae.config.errors import cannot_run
from scae.connections import Connections
from scae.data import (
    Batch,
    TokenWindows,
    WindowModule,
    heldout_batches,
    train_and_heldout,
    train_tokenizer,
    training_documents,
)
from scae.evaluation import Arm, bypass_share, evaluate
from scae.evaluation.unigram import unigram, unigram_ce, warn_if_no_better
from scae.failures import ArtifactError
from scae.lm import LanguageModel, Trace, check_borders, open_model
from scae.lm.tiny import TinyTraining, build_tiny, save_tiny
from scae.objectives import Objective
from scae.plan import Finetuned, Plan, Selection
from scae.selection import choose, describe, shuffled
from scae.sites import SINK, SOURCE
from scae.suite import Mode, Suite, choose_sites, thresholds
from scae.suite.files import load, save
from scae.training import (
    Place,
    Regrowth,
    SuiteTraining,
    WorstTokens,
    bound_from_data,
    device,
    fit,
    moved_share,
    start_from_data,
)

log = logging.getLogger(__name__)


class Stages:
    """The work of the stages. Models, windows and suites are opened when the first stage that runs asks for them."""

    def __init__(self, config: Config, plan: Plan) -> None:
        self.config, self.plan = config, plan
        lightning.seed_everything(config.seed, workers=True, verbose=False)

    # What the stages share.

    @cached_property
    def device(self) -> torch.device:
        """Where the stages that are no fit run."""
        return device(self.config.trainer.accelerator)

    @cached_property
    def lm(self) -> LanguageModel:
        model, data = self.config.model, self.config.data
        name: str | Path
        if isinstance(model, TinyModel):
            assert self.plan.model is not None
            name, revision = self.plan.model.folder, None
        else:
            name, revision = (Path(model.path), None) if isinstance(model, LocalModel) else (model.name, model.revision)
        lm = open_model(name, dtype=model.dtype, prepend_bos=data.prepend_bos, revision=revision)
        problems = list(shape_problems(self.config, d_model=lm.paths.d_model, n_layers=lm.paths.n_layers))
        if problems:
            raise cannot_run(problems)
        if data.context > lm.context:
            raise ConfigError(f"data.context={data.context}: {name} takes at most {lm.context} tokens")
        if not data.attend_across:
            check_borders(lm)
        return lm.to(self.device)

    @cached_property
    def windows(self) -> tuple[TokenWindows, TokenWindows]:
        """The windows to train on, and those that only evaluation sees."""
        return train_and_heldout(self.config.data, self.lm.tokenizer, self.plan.root)

    def sample(self, tokens: int) -> Iterator[Trace]:
        """Clean runs on about `tokens` tokens of the training text, drawn from everywhere in it, no window twice."""
        train = self.windows[0]
        count = min(max(1, tokens // self.config.data.context), len(train))
        drawn = WindowModule(train=train, batch_size=count, steps=1, seed=self.config.seed).indices(0)
        for indices in drawn.split(self.config.evaluation.batch_size):
            yield self._trace(train.batch(indices))

    def heldout(self) -> Iterator[Trace]:
        evaluation = self.config.evaluation
        for batch in heldout_batches(self.windows[1], tokens=evaluation.tokens, batch_size=evaluation.batch_size):
            yield self._trace(batch)

    def _trace(self, batch: Batch) -> Trace:
        return self.lm.trace(*batch.to(self.device))

    # The stages. Each writes into `folder` and returns facts for artifact.json.

    def model(self, folder: Path) -> dict[str, Any]:
        """Train the tokenizer and the embedded model on the training documents."""
        config, model = self.config, self.config.model
        assert isinstance(model, TinyModel)
        tokenizer = train_tokenizer(training_documents(config.data), model.vocab_size)
        train, _ = train_and_heldout(config.data, tokenizer, self.plan.root)
        data = WindowModule(train=train, batch_size=model.batch_size, steps=model.steps, seed=config.seed)
        network = build_tiny(model, tokenizer, context=config.data.context)
        alone = {"strategy": "auto", "devices": 1, "num_nodes": 1, "accumulate": 1, "precision": "32-true"}
        tokens = model.batch_size * config.data.context
        assert self.plan.model is not None
        module = TinyTraining(network, model, identity={"artifact": self.plan.model.name})
        fit(
            module,
            data,
            steps=model.steps,
            tokens_per_step=tokens,
            trainer=config.trainer.model_copy(update=alone),
            logger=config.logger,
            place=self._place("model", folder),
            seed=config.seed,
        )
        save_tiny(network, tokenizer, folder)
        return {"tokens": model.steps * tokens}

    def pretrain(self, folder: Path) -> dict[str, Any]:
        """Train every dictionary on its own module."""
        config = self.config
        if not isinstance(config.model, TinyModel) and is_first_process():
            warn_if_no_better(self.lm, self.windows[0], partial(self.sample, config.evaluation.first_look))
        sites = choose_sites(self.lm.paths, config.sites.layers, list(config.sites.kinds))
        ends = [end for end, wanted in ((SOURCE, config.sites.embed), (SINK, config.sites.unembed)) if wanted]
        suite = Suite.from_config(config.sae, sites, self.lm, ends=ends).to(self.device)
        suite.chunk_mb = config.trainer.chunk_mb
        objective = Objective.from_config(config.pretrain.loss, config.sae)
        mode: Mode = "spliced" if objective.reads_stream else "plain"
        features = ", ".join(sorted({str(size) for size in suite.layout.sizes}))
        message = "pretrain: %d sites of %s features, %s, %s pass"
        log.info(message, len(sites), features, objective, mode)
        steps = config.pretrain.steps * config.trainer.accumulate
        data = WindowModule(train=self.windows[0], batch_size=config.pretrain.batch_size, steps=steps, seed=config.seed)
        start = config.pretrain.start
        first = [data.batch(step, rank=0, world_size=1) for step in range(min(start.batches, steps))]
        start_from_data(suite, first, centred=config.sae.centred, furthest=start.furthest)
        self._train(suite, objective, mode, "pretrain", self.plan.pretrain.name, data, folder)
        bound = config.sae.bound
        if bound.margin is not None and is_first_process():
            bound_from_data(suite, self.sample(bound.tokens), margin=bound.margin)
        return self._save(suite, config.pretrain, folder)

    def select(self, selection: Selection, folder: Path) -> dict[str, Any]:
        """Choose the connections, or draw as many at random."""
        connectivity, seed = selection.connectivity, self.config.seed
        if selection.shuffled:
            connections = shuffled(self._connections(Selection(connectivity)), seed=seed)
            stats = describe(connections)
        else:
            suite = self.suite(self.plan.pretrain.folder)
            thresholds.learn(suite, self.sample(connectivity.tokens), "plain")  # the pass that scores are taken in
            connections, stats = choose(connectivity, suite, partial(self.sample, connectivity.tokens), seed=seed)
        connections.save(folder / "connections.safetensors")
        log.info(
            "select: %s, %d connections, in-degree %.1f on average",
            selection.label,
            len(connections),
            stats["connectivity/in_degree_mean"],
        )
        measured = selection.label == "contribution"
        return {"statistics": stats, "tokens": connectivity.tokens if measured else 0}

    def finetune(self, one: Finetuned, name: str, folder: Path) -> dict[str, Any]:
        """Train the suite in the pass that it will be used in."""
        config = self.config
        suite = self.suite(self.plan.pretrain.folder, one.selection)
        objective = Objective.from_config(config.loss, config.sae)
        log.info("%s: %s, %s pass", name, objective, one.mode)
        data = WindowModule(
            train=self.windows[0],
            batch_size=config.finetune.batch_size,
            steps=config.finetune.steps * config.trainer.accumulate,
            seed=config.seed + 1,  # other batches than those that pretraining began with
        )
        callbacks = []
        if one.regrow is not None:
            steps, chunk_mb = config.finetune.steps, config.connectivity.chunk_mb
            callbacks.append(Regrowth(suite, objective, one.regrow, steps=steps, chunk_mb=chunk_mb))
        selected = suite.connections
        self._train(suite, objective, one.mode, name, self.plan.finetune(one).name, data, folder, callbacks)
        facts = self._save(suite, config.finetune, folder)
        if one.regrow is not None:
            edges = suite.connections
            moved = moved_share(selected, edges)
            log.info("%s: %.1f %% of the connections are not among those selected", name, 100 * moved)
            facts["statistics"] = describe(edges) | {"connectivity/regrown": moved}
        return facts

    def evaluate(self, folder: Path) -> dict[str, Any]:
        """Compare every arm on held-out text."""
        plan = self.plan
        pretrained = plan.pretrain.folder
        pruned = Arm("pruned", self.suite(plan.finetune(plan.pruned).folder), "pruned")
        plain = self.suite(pretrained)
        arms = [
            Arm("plain", plain, "plain"),
            Arm("dense", self.suite(pretrained) if thresholds.foreign(plain, "dense") else plain, "dense"),
            pruned,
            Arm("pruned_no_finetune", self.suite(pretrained, plan.chosen), "pruned"),
            Arm("random_no_finetune", self.suite(pretrained, plan.random), "pruned"),
        ]
        for name, twin in plan.twins.items():
            arms.append(Arm(name, self.suite(plan.finetune(twin).folder), twin.mode))
        self._learn_thresholds(arms)
        metrics = evaluate(self.lm, arms, self.heldout)
        vocab = self.lm.paths.W_U.shape[1]
        metrics["lm/ce_unigram"] = unigram_ce(unigram(self.windows[0], vocab), self.heldout())
        metrics |= bypass_share(pruned, self.heldout())
        return {"metrics": metrics, "tokens": self.config.evaluation.tokens}

    def _learn_thresholds(self, arms: list[Arm]) -> None:
        """Where an arm runs another pass than its suite's thresholds were learned in, learn them in its own."""
        foreign = [arm for arm in arms if thresholds.foreign(arm.suite, arm.mode)]
        if not foreign:
            return
        tokens = self.config.evaluation.tokens
        log.info(
            "evaluate: thresholds were learned in another pass than that of %s; set anew there, so that k activations "
            "a token fire on average, on %d tokens of the training text",
            ", ".join(arm.name for arm in foreign),
            tokens,
        )
        for arm in foreign:
            thresholds.learn(arm.suite, self.sample(tokens), arm.mode)

    def suite(self, folder: Path, selection: Selection | None = None) -> Suite:
        """A stored suite: with the connections that a selection chose, or with those that it was stored with."""
        with _repaired_by(folder):
            suite = load(folder, self.lm)
        suite.chunk_mb, suite.auxk = self.config.trainer.chunk_mb, self.config.sae.auxk
        if selection is not None:
            suite.connect(self._connections(selection))
        return suite

    def _connections(self, selection: Selection) -> Connections:
        folder = self.plan.select(selection).folder
        with _repaired_by(folder):
            return Connections.load(folder / "connections.safetensors")

    def _train(
        self,
        suite: Suite,
        objective: Objective,
        mode: Mode,
        name: str,
        artifact: str,
        data: WindowModule,
        folder: Path,
        callbacks: Sequence[lightning.Callback] = (),
    ) -> None:
        config = self.config
        training = config.pretrain if name == "pretrain" else config.finetune
        module = SuiteTraining(
            suite, objective, training, mode=mode, clip=config.trainer.clip, identity={"artifact": artifact}
        )
        fit(
            module,
            data,
            steps=training.steps,
            tokens_per_step=self._tokens_per_step(training),
            trainer=config.trainer,
            logger=config.logger,
            place=self._place(name, folder),
            seed=config.seed,
            callbacks=[WorstTokens(name, config.trainer.worst_share_warning), *callbacks],
        )
        self.lm.to(self.device)
        suite.to(self.device)

    def _save(self, suite: Suite, training: Training, folder: Path) -> dict[str, Any]:
        if is_first_process():
            save(suite, folder)
        return {"tokens": training.steps * self._tokens_per_step(training)}

    def _tokens_per_step(self, training: Training) -> int:
        return training.batch_size * self.config.data.context * self.config.trainer.accumulate

    def _place(self, stage: str, folder: Path) -> Place:
        return Place(stage, folder, Path(self.config.paths.output).name)


@contextmanager
def _repaired_by(folder: Path) -> Iterator[None]:
    """Add to the error of a file that cannot be read which stage makes it again."""
    try:
        yield
    except ValueError as error:
        stage = folder.name.partition("-")[0]
        raise ArtifactError(f"{error}; force=[{stage}] makes it again") from error
