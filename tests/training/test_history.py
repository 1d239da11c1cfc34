"""The rows of a fit: what is in them, and that an interruption leaves no trace in csv, TensorBoard and wandb."""

import csv
import os
import shutil
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from scae.artifacts.checkpoints import CHECKPOINT
from scae.config import Logger, TrainerConfig
from scae.core.stopping import Stopped, held_signals, signal_asked, stops_at_signals
from scae.data import TokenWindows, WindowModule
from scae.training import Place, fit

STEPS, EVERY = 20, 3
Hook = Callable[[int], None]


class Toy(lightning.LightningModule):
    """A table of numbers that learns to be the tokens; `before` is called with the number of every micro-step."""

    def __init__(self, before: Hook | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(40, 1)
        self.before = before or (lambda micro_step: None)
        self.losses: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.before(batch_idx)
        loss = (self.table(batch.tokens)[..., 0] - batch.tokens).square().mean()
        self.losses.append(float(loss.detach()))
        self.log("train/loss", loss.detach())
        if batch_idx in (4, 10):
            self.log("train/now_and_then", float(batch_idx))
        return loss

    def parts(self) -> dict[str, torch.nn.Module]:
        return {"table": self.table}

    def on_the_way(self, batch: Any) -> Iterator[Any]:
        yield from ()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.1)


class KeepAt(lightning.Callback):
    """Copies the checkpoint of one step, as if it had been the last before the process was killed."""

    def __init__(self, folder: Path, step: int) -> None:
        self.folder, self.step = folder, step

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            shutil.copy(self.folder / CHECKPOINT, self.folder / "kept")


class Killed(BaseException):
    pass


def train(folder: Path, module: Toy, kind: str = "csv", *callbacks: Any, accumulate: int = 1) -> None:
    folder.mkdir(exist_ok=True)
    tokens = torch.randint(40, (50, 6), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    windows = TokenWindows(tokens=tokens, lengths=torch.full((50,), 6, dtype=torch.int32), bos=True)
    values: dict[str, Any] = {
        "accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": "32-true",
        "accumulate": accumulate, "clip": 1.0, "chunk_mb": 32, "checkpoint_minutes": 1e-6,
        "checkpoint_steps": None, "keep_checkpoints": "all",
        "worst_share_warning": 0.99, "progress": False,
    }  # fmt: skip
    logger: dict[str, Any] = {"kind": kind, "every": EVERY, "project": "p", "mode": "offline"}
    fit(
        module,
        WindowModule(train=windows, batch_size=4, steps=STEPS * accumulate, seed=5),
        steps=STEPS,
        tokens_per_step=24,
        trainer=TrainerConfig(**values),
        logger=Logger(**logger),
        place=Place("pretrain", folder, "group", "pretrain"),
        seed=0,
        callbacks=callbacks,
    )


def kill(folder: Path, kind: str, *, at: int, saved: int | None) -> None:
    """Train up to micro-step `at`; `saved`: the step of the last checkpoint, None where there is none."""

    def die(micro_step: int) -> None:
        if micro_step == at:
            raise Killed

    keep = [KeepAt(folder, saved)] if saved else []
    with pytest.raises(Killed):
        train(folder, Toy(die), kind, *keep)
    (folder / CHECKPOINT).unlink()
    if saved:
        (folder / "kept").replace(folder / CHECKPOINT)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "logs" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def events(folder: Path) -> list[Any]:
    """(step, name, value) of every event."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    (file,) = (folder / "logs").glob("events.out.tfevents.*")
    loaded = EventFileLoader(str(file)).Load()
    return [(e.step, v.tag, v.tensor.float_val[0]) for e in loaded for v in e.summary.value]


def wandb_rows(folder: Path) -> list[Any]:
    """(step, the metrics) of every row of the only run, once its service has written all."""
    (file,) = (folder / "logs").glob("wandb/offline-run-*/*.wandb")
    patience = time.monotonic() + 30
    records: list[Any] = []
    while not any(record.HasField("exit") for record in records):
        assert time.monotonic() < patience, f"{file} has no end"
        time.sleep(0.05)
        records = wandb_records(file.read_bytes())
    found = []
    for history in (record.history for record in records if record.HasField("history")):
        items = {item.key or "/".join(item.nested_key): item.value_json for item in history.item}
        found.append((history.step.num, {key: value for key, value in items.items() if key.startswith("train/")}))
    return found


def wandb_records(content: bytes) -> list[Any]:
    """A leveldb log: behind 7 bytes, blocks of 32 KiB with parts of records."""
    from wandb.proto.wandb_internal_pb2 import Record

    place, found, part = 7, [], b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        part += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(Record.FromString(part))
            part = b""
    return found


READ: dict[str, Callable[[Path], list[Any]]] = {"csv": rows, "tensorboard": events, "wandb": wandb_rows}


def test_a_row_holds_the_last_known_values(tmp_path: Path) -> None:
    toy = Toy()
    train(tmp_path, toy)
    written = rows(tmp_path)
    steps = [int(row["step"]) for row in written]
    assert steps == [2, 5, 8, 11, 14, 17]
    assert [float(row["train/loss"]) for row in written] == [toy.losses[step] for step in steps]
    assert [row["train/now_and_then"] for row in written] == ["", "4.0", "4.0", "10.0", "10.0", "10.0"]


@pytest.mark.parametrize("kind", ["csv", "tensorboard", "wandb"])
@pytest.mark.parametrize(("at", "saved"), [(14, 6), (14, 7), (13, 5), (7, None)])
def test_an_interruption_leaves_no_trace(
    tmp_path: Path, kind: str, at: int, saved: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last checkpoint right behind a row (6), between rows (7), before a value that a later row repeats (5)."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(tmp_path / "whole", Toy(), kind)
    kill(tmp_path / "killed", kind, at=at, saved=saved)
    written = READ[kind](tmp_path / "killed")
    train(tmp_path / "killed", Toy(), kind)
    expected = READ[kind](tmp_path / "whole")
    assert len(expected) >= STEPS // EVERY
    assert 0 < len(written) < len(expected)
    assert READ[kind](tmp_path / "killed") == expected


def test_a_resumed_wandb_run_is_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    kill(tmp_path / "a", "wandb", at=9, saved=4)
    (first,) = (tmp_path / "a" / "logs").glob("wandb/offline-run-*/*.wandb")
    train(tmp_path / "a", Toy(), "wandb")
    (second,) = (tmp_path / "a" / "logs").glob("wandb/offline-run-*/*.wandb")
    assert second.name == first.name
    train(tmp_path / "b", Toy(), "wandb")
    (other,) = (tmp_path / "b" / "logs").glob("wandb/offline-run-*/*.wandb")
    assert other.name != first.name


# asked to stop


@pytest.fixture
def stoppable() -> Iterator[None]:
    with stops_at_signals():
        yield


def asks(signum: int, at: int) -> Hook:
    return lambda micro_step: os.kill(os.getpid(), signum) if micro_step == at else None


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_fit_that_is_asked_to_stop_saves_and_says_where(
    tmp_path: Path, stoppable: None, signum: int, status: int, accumulate: int
) -> None:
    """In micro-step 8: after 9 steps, or 5 of two micro-steps; the repeat ends like an uninterrupted one."""
    whole, stopped = Toy(), Toy(asks(signum, 8))
    train(tmp_path / "whole", whole, accumulate=accumulate)
    with pytest.raises(Stopped) as stop:
        train(tmp_path / "stopped", stopped, accumulate=accumulate)
    done = 9 if accumulate == 1 else 5
    assert stop.value.code == status
    assert f"stopped by {signal.Signals(signum).name} in pretrain after step {done} of {STEPS}" in str(stop.value)
    saved = torch.load(tmp_path / "stopped" / CHECKPOINT, weights_only=True)
    assert saved["global_step"] == done
    resumed = Toy()
    train(tmp_path / "stopped", resumed, accumulate=accumulate)
    assert torch.equal(resumed.table.weight, whole.table.weight)
    histories = [(tmp_path / name / "logs" / "metrics.csv").read_bytes() for name in ("whole", "stopped")]
    assert histories[0] == histories[1]


def test_a_second_signal_does_not_wait(tmp_path: Path, stoppable: None) -> None:
    def ask_twice(micro_step: int) -> None:
        if micro_step == 8:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped) as stop:
        train(tmp_path, Toy(ask_twice))
    assert stop.value.code == 130
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["global_step"] == 8


def test_a_signal_that_nobody_asks_for_is_raised_at_the_end(stoppable: None) -> None:
    def work(error: Exception | None = None) -> None:
        with held_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            assert signal_asked() == signal.SIGTERM
            if error is not None:
                raise error

    with pytest.raises(Stopped, match="SIGTERM"):
        work()
    with pytest.raises(Stopped, match="SIGTERM"):
        work(RuntimeError("a process of the job has gone"))
    with pytest.raises(Stopped, match="SIGINT"):
        os.kill(os.getpid(), signal.SIGINT)
