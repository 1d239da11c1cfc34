"""A finished run in a notebook: what it was, what it measured, and everything that it measured it with.

Whatever is asked for is read then, from the run directory and from the artifacts that its `run.json` points to. Both
may have moved, together; text is read where it was.
"""

import json
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from pydantic import ValidationError

from scae.config import Config, ConfigError, settled
from scae.connections import Connections
from scae.data import TokenWindows, train_and_heldout
from scae.experiment.workshop import heldout_traces
from scae.lm import LanguageModel, Trace, open_model
from scae.report.analysis_files import Analysis
from scae.suite import Suite
from scae.suite.files import load
from scae.training import snapshots

RELATIVE = (
    ("data", "path"),
    ("model", "path"),
    ("connectivity", "path"),
    ("pretrain", "init_from"),
    ("paths", "artifacts"),
)
"""Places that a configuration may name as they are seen from where the command ran."""


class Run:
    """A finished run directory. Raises ValueError, naming it, where something that is asked for is gone."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / "run.json").is_file():
            raise ValueError(f"{folder} is no finished run: it holds no run.json")

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @cached_property
    def config(self) -> Config:
        """The configuration that ran, its separator as it was settled, its places absolute."""
        values = self._recorded("config.yaml")
        cwd = self._recorded("hydra.yaml")["hydra"]["runtime"]["cwd"]
        OmegaConf.update(values, "paths.output", str(self.folder.absolute()))  # hydra is not there to say it again
        content: Any = OmegaConf.to_container(values, resolve=True)
        content["data"] |= self._note["data"]
        for section, key in RELATIVE:
            found = content[section].get(key)
            if isinstance(found, list):
                content[section][key] = [_seen_from(cwd, path) for path in found]
            elif found is not None:
                content[section][key] = _seen_from(cwd, found)
        try:
            return settled(Config.model_validate(content))
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(
                f"{self.folder} ran with a configuration that this version cannot read: "
                f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            ) from error

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Every number, by its key in `metrics.json`."""
        return json.loads(self._file("metrics.json").read_text())

    @cached_property
    def analysis(self) -> Analysis:
        """What the stage `analyze` found: the database of activations, features, sites."""
        if "analyze" not in self._note["stages"]:
            raise ValueError(f"{self.folder} was not analyzed: stages=[analyze] does that")
        return Analysis(self._artifact("analyze"))

    @cached_property
    def lm(self) -> LanguageModel:
        model = self._note["model"]
        name = model["name"] if "name" in model else self._there(self.folder / model["path"], "its language model")
        return open_model(
            name,
            dtype=model["dtype"],
            prepend_bos=model["prepend_bos"],
            revision=model["revision"],
            quantize=model.get("quantize"),
        )

    @cached_property
    def suite(self) -> Suite:
        """The suite that the experiment is about: pruned, as finetuning has left it; one that is not pruned, as
        pretraining has."""
        stages = self._note["stages"]
        return load(self._artifact("finetune" if "finetune" in stages else "pretrain"), self.lm).eval()

    @cached_property
    def pretrained(self) -> Suite:
        """The pretrained suite, with the connections that were selected where there are any.

        Its thresholds (BatchTopK) belong to the pass of pretraining; `scae.suite.thresholds.learn` sets them for
        another.
        """
        suite = load(self._artifact("pretrain"), self.lm)
        if "select" in self._note["stages"]:
            suite.connect(Connections.load(self._artifact("select") / "connections.safetensors"))
        return suite.eval()

    def suite_at(self, step: int, *, finetuned: bool = True) -> Suite:
        """The suite as it was after `step` steps of finetuning, or of pretraining, where no connections are chosen
        yet; there are those that `trainer.checkpoint_steps` and `trainer.keep_checkpoints` have kept."""
        is_finetuned = finetuned and "finetune" in self._note["stages"]
        folder = self._artifact("finetune" if is_finetuned else "pretrain")
        there = snapshots(folder)
        if step not in there:
            kept = (
                f"kept: {', '.join(map(str, there))}" if there else "trainer.checkpoint_steps was null, or keeps none"
            )
            raise ValueError(f"{self.folder}: {folder} holds no suite of step {step}; {kept}")
        return load(there[step], self.lm).eval()

    @cached_property
    def windows(self) -> tuple[TokenWindows, TokenWindows]:
        """The windows that were trained on, and those that only the evaluation saw; made again from the text where the
        tokens are gone. Both need the text, which decides whether the tokens are still those."""
        try:
            return train_and_heldout(self.config.data, self.lm.tokenizer, self._artifact("pretrain").parent)
        except (ConfigError, OSError) as error:
            raise ValueError(
                f"{self.folder}: the text that its windows were cut from cannot be read: {error}"
            ) from error

    def heldout(self) -> Iterator[Trace]:
        """The model's clean runs on the text that the evaluation saw, in its batches and in its order."""
        return heldout_traces(self.lm, self.windows[1], self.config.evaluation)

    @cached_property
    def _note(self) -> dict[str, Any]:
        return json.loads((self.folder / "run.json").read_text())

    def _artifact(self, stage: str) -> Path:
        return self._there(self.folder / self._note["stages"][stage], f"what its stage {stage} made")

    def _recorded(self, name: str) -> Any:
        """What Hydra has left about the command."""
        return OmegaConf.load(self._file(f".hydra/{name}"))

    def _file(self, name: str) -> Path:
        if not (self.folder / name).is_file():
            raise ValueError(f"{self.folder} holds no {name}")
        return self.folder / name

    def _there(self, folder: Path, what: str) -> Path:
        if not folder.is_dir():
            raise ValueError(f"{self.folder}: {what} is gone: there is no {folder}")
        return folder


def open_run(folder: str | Path) -> Run:
    """A finished run, to be looked into."""
    return Run(folder)


def load_suite(run: str | Path, *, finetuned: bool = True, step: int | None = None) -> tuple[Suite, LanguageModel]:
    """The pruned suite of a run directory, ready for `suite(lm.trace(text), mode="pruned")`, and its model.

    finetuned: as it is after finetuning; False: as it was before (`Run.pretrained`). step: as it was on the way there
    (`Run.suite_at`).
    """
    opened = open_run(run)
    if step is not None:
        return opened.suite_at(step, finetuned=finetuned), opened.lm
    return opened.suite if finetuned else opened.pretrained, opened.lm


def _seen_from(cwd: str, path: str) -> str:
    return path if path.startswith("~") else os.path.join(cwd, path)
