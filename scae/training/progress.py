"""How far a fit is: tokens a second and the time left."""

import logging
import sys
import time
from typing import Any

import lightning
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

log = logging.getLogger(__name__)
EVERY = 15.0  # seconds between two lines where there is no terminal to draw on


class Progress(lightning.Callback):
    """A bar on a terminal, a line now and then elsewhere."""

    def __init__(self, stage: str, steps: int, tokens_per_step: int, *, shown: bool) -> None:
        self.stage, self.steps, self.tokens_per_step = stage, steps, tokens_per_step
        self.shown = shown
        self.bar: Bar | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.started = self.written = time.monotonic()
        self.first_step = trainer.global_step
        if self.shown and trainer.is_global_zero and sys.stderr.isatty():
            columns = [TextColumn("{task.description:10}"), BarColumn(), TextColumn("{task.completed}/{task.total}")]
            facts = [TextColumn("{task.fields[facts]}"), TimeElapsedColumn(), TimeRemainingColumn()]
            self.bar = Bar(*columns, *facts)
            self.task = self.bar.add_task(self.stage, total=self.steps, completed=self.first_step, facts="")
            self.bar.start()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, *_: Any
    ) -> None:
        if not (self.shown and trainer.is_global_zero):
            return
        now, step = time.monotonic(), trainer.global_step
        if self.bar is None and now - self.written < EVERY:
            return
        rate = (step - self.first_step) * self.tokens_per_step / max(now - self.started, 1e-9)
        left = (self.steps - step) * self.tokens_per_step / max(rate, 1e-9)
        if self.bar is not None:
            self.bar.update(self.task, completed=step, facts=f"{rate / 1000:.1f}k tokens/s")
        else:
            self.written = now
            loss = float(trainer.callback_metrics.get("train/loss", float("nan")))
            message = "%s: step %d of %d, loss %.3f, %.1fk tokens/s, %.0f s left"
            log.info(message, self.stage, step, self.steps, loss, rate / 1000, left)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: Any) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
