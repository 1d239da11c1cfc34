"""Suites as they were on the way, for whoever studies training: `steps/000300/` is the suite after 300 steps.

Each is a suite as any other (`scae.suite.files`). Nothing goes on from them: that is what the checkpoint is for.
"""

import shutil
from pathlib import Path
from typing import Any

import lightning

from scae.suite import Suite
from scae.suite.files import save
from scae.training.steps import ends_step

FOLDER = "steps"


class Snapshots(lightning.Callback):
    """Writes the suite every `every` steps, and keeps the last `keep` of these."""

    def __init__(self, suite: Suite, folder: Path, *, every: int, keep: int | None) -> None:
        """folder: of the stage; keep: None, all of them."""
        self.suite, self.folder, self.every, self.keep = suite, folder, every, keep

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """What a killed fit has written after its last checkpoint is written again."""
        if trainer.is_global_zero:
            for step, path in snapshots(self.folder).items():
                if step > trainer.global_step:
                    shutil.rmtree(path)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        due = ends_step(trainer, batch_idx) and trainer.global_step % self.every == 0
        if not due or not trainer.is_global_zero:
            return
        here = self.folder / FOLDER / f"{trainer.global_step:06d}"
        here.mkdir(parents=True, exist_ok=True)
        with pl_module.evaluated():
            save(self.suite, here)
        written = list(snapshots(self.folder).values())
        for path in written[: -self.keep] if self.keep is not None else []:
            shutil.rmtree(path)


def snapshots(folder: Path) -> dict[int, Path]:
    """The suites that a stage has left in its folder, by step, in order."""
    found = {int(path.name): path for path in (folder / FOLDER).glob("*") if path.name.isdecimal()}
    return dict(sorted(found.items()))
