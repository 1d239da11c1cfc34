"""What the stages share: the model, the text, stored suites and connections, each opened when the first stage asks."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning
import torch

from scae.activations import Store, StoredModule
from scae.config import Config, ConfigError, Evaluation, LocalModel, TinyModel, shape_problems
from scae.config.errors import cannot_run
from scae.config.model import AnyModel
from scae.connections import Connections
from scae.core.failures import ArtifactError
from scae.data import Batch, TokenWindows, WindowModule, heldout_batches, train_and_heldout
from scae.experiment.plan import Plan, Selection
from scae.lm import LanguageModel, Trace, check_borders, open_model
from scae.sites import Site
from scae.suite import Suite, choose_sites
from scae.suite.files import load
from scae.training import Place, device


class Workshop:
    """Where the stages of one experiment work."""

    def __init__(self, config: Config, plan: Plan) -> None:
        self.config, self.plan = config, plan
        lightning.seed_everything(config.seed, workers=True, verbose=False)

    @cached_property
    def device(self) -> torch.device:
        """Where the stages that are no fit run."""
        return device(self.config.trainer.accelerator)

    @cached_property
    def lm(self) -> LanguageModel:
        model, data = self.config.model, self.config.data
        name, more = self._source(model)
        lm = open_model(name, dtype=model.dtype, prepend_bos=data.prepend_bos, device=self.device, **more)
        problems = list(shape_problems(self.config, d_model=lm.paths.d_model, n_layers=lm.paths.n_layers))
        if problems:
            raise cannot_run(problems)
        if data.context > lm.context:
            raise ConfigError(f"data.context={data.context}: {name} takes at most {lm.context} tokens")
        if not data.attend_across:
            check_borders(lm)
        return lm.to(self.device)

    def _source(self, model: AnyModel) -> tuple[str | Path, dict[str, Any]]:
        """Where the model is, and what else of its section decides how it is opened."""
        if isinstance(model, TinyModel):
            assert self.plan.model is not None
            return self.plan.model.folder, {}
        if isinstance(model, LocalModel):
            return Path(model.path), {"quantize": model.quantize}
        return model.name, {"revision": model.revision, "quantize": model.quantize}

    @cached_property
    def windows(self) -> tuple[TokenWindows, TokenWindows]:
        """The windows to train on, and those that only evaluation sees."""
        return train_and_heldout(self.config.data, self.lm.tokenizer, self.plan.root)

    @cached_property
    def sites(self) -> list[Site]:
        """Where the model gets a dictionary."""
        where = self.config.sites
        return choose_sites(self.lm.paths, where.layers, list(where.kinds), stride=where.stride, hook=where.hook)

    def stored(self) -> StoredModule:
        """The batches of pretraining from the store that its plan has."""
        config, kept = self.config, self.plan.activations
        assert kept is not None
        with _repaired_by(kept.folder):
            return StoredModule(
                store=Store(kept.folder),
                batch_size=config.pretrain.batch_size,
                steps=config.pretrain.steps * config.trainer.accumulate,
                seed=config.seed,
            )

    def sample(self, tokens: int, *, at_once: bool = False) -> Iterator[Trace]:
        """Clean runs on about `tokens` tokens of the training text, drawn from everywhere in it, no window twice.

        at_once: one run on all of them, in place of batches as large as those of the evaluation.
        """
        train = self.windows[0]
        count = min(max(1, tokens // self.config.data.context), len(train))
        drawn = WindowModule(train=train, batch_size=count, steps=1, seed=self.config.seed).indices(0)
        for indices in drawn.split(count if at_once else self.config.evaluation.batch_size):
            yield self._trace(train.batch(indices))

    def heldout(self) -> Iterator[Trace]:
        return heldout_traces(self.lm, self.windows[1], self.config.evaluation)

    def _trace(self, batch: Batch) -> Trace:
        return self.lm.trace(*batch.to(self.device))

    def suite(self, folder: Path, selection: Selection | None = None) -> Suite:
        """A stored suite: with the connections that a selection chose, or with those that it was stored with."""
        with _repaired_by(folder):
            suite = load(folder, self.lm)
        suite.chunk_mb, suite.auxk = self.config.trainer.chunk_mb, self.config.sae.auxk
        if selection is not None:
            suite.connect(self.connections(selection))
        return suite

    def connections(self, selection: Selection) -> Connections:
        folder = self.plan.select(selection).folder
        with _repaired_by(folder):
            return Connections.load(folder / "connections.safetensors")

    def place(self, label: str, folder: Path, *, section: str) -> Place:
        """Where a fit belongs. section: of the configuration, whose values it is trained with."""
        return Place(label, folder, Path(self.config.paths.output).name, section)


def heldout_traces(lm: LanguageModel, heldout: TokenWindows, evaluation: Evaluation) -> Iterator[Trace]:
    """Clean runs on the text that arms are compared on."""
    for batch in heldout_batches(heldout, tokens=evaluation.tokens, batch_size=evaluation.batch_size):
        yield lm.trace(*batch.to(lm.device))


@contextmanager
def _repaired_by(folder: Path) -> Iterator[None]:
    """Add to the error of a file that cannot be read which stage makes it again."""
    try:
        yield
    except ValueError as error:
        stage = folder.name.partition("-")[0]
        raise ArtifactError(f"{error}; force=[{stage}] makes it again") from error
