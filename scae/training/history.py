"""The numbers of a fit, a row every few optimiser steps and after a validation, and the places to read them.

The rows so far lie in every checkpoint. A resumed fit writes them again before its own and so ends with the history of
a fit that was never interrupted: what the killed one wrote after its last checkpoint is replaced, not repeated.
"""

import csv
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import lightning

from scae.training.steps import ends_step

Row = dict[str, float | int]
"""The last known value of every metric, by name; `step` counts optimiser steps from 0."""


class Writer(Protocol):
    """One place for rows. It starts anew: what an interrupted fit has left there is gone."""

    def write(self, row: Row) -> None: ...

    def close(self) -> None: ...


class History(lightning.Callback):
    """Collects the rows of the first process and writes them while the fit runs."""

    def __init__(self, every: int, open_writer: Callable[[], Writer], *, also: Callable[[int], bool]) -> None:
        """every: steps between two rows; also: whether there is one after this many steps, wherever it stands."""
        self.every, self.open_writer, self.also = every, open_writer, also
        self.rows: list[Row] = []
        self.latest: Row = {}  # what was logged between two rows, too
        self.writer: Writer | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.is_global_zero:
            self.writer = self.open_writer()
            for row in self.rows:
                self.writer.write(row)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = trainer.global_step
        if self.writer is not None and ends_step(trainer, batch_idx) and (done % self.every == 0 or self.also(done)):
            self._update(trainer)
            self.rows.append({"step": done - 1} | self.latest)
            self.writer.write(self.rows[-1])

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._update(trainer)
        checkpoint["history"] = {"rows": self.rows, "latest": self.latest}

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.rows, self.latest = checkpoint["history"]["rows"], checkpoint["history"]["latest"]

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: Any) -> None:
        self._close()

    def _update(self, trainer: lightning.Trainer) -> None:
        self.latest |= {name: float(value) for name, value in trainer.callback_metrics.items()}

    def _close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None


class Csv:
    """One file, `metrics.csv`; a metric that comes later adds a column."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.path = folder / "metrics.csv"
        self.rows: list[Row] = []
        self.columns: list[str] = []

    def write(self, row: Row) -> None:
        self.rows.append(row)
        new = [name for name in row if name not in self.columns]
        self.columns += new
        with self.path.open("w" if new else "a", newline="") as file:
            lines = csv.DictWriter(file, self.columns, lineterminator="\n")
            if new:
                lines.writeheader()
            lines.writerows(self.rows if new else [row])

    def close(self) -> None:
        """Every row is in the file already."""


class TensorBoard:
    """One event file."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self.events = SummaryWriter(folder)

    def write(self, row: Row) -> None:
        for name, value in row.items():
            if name != "step":
                self.events.add_scalar(name, value, int(row["step"]))
        self.events.flush()

    def close(self) -> None:
        self.events.close()


class Wandb:
    """One run, whose id is kept in `folder`. Offline its files are written anew; online it is resumed, and rows that
    the server has are not sent again: a repeated step has the same numbers."""

    def __init__(self, folder: Path, *, project: str, name: str, group: str, offline: bool) -> None:
        import wandb

        folder.mkdir(exist_ok=True)
        known = folder / "wandb-id"
        if not known.exists():
            known.write_text(uuid.uuid4().hex)
        if offline:
            shutil.rmtree(folder / "wandb", ignore_errors=True)
        self.run = wandb.init(
            project=project,
            name=name,
            group=group,
            dir=folder,
            id=known.read_text(),
            resume="allow",
            mode="offline" if offline else "online",
        )

    def write(self, row: Row) -> None:
        if row["step"] >= self.run.step:
            values = {name: value for name, value in row.items() if name != "step"}
            self.run.log(values, step=int(row["step"]), commit=True)

    def close(self) -> None:
        self.run.finish()
