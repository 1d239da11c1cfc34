"""The batch of a micro-step is a function of (seed, step): over epochs, over ranks, and over an interruption."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint

from scae.config import ConfigError
from scae.data import Batch, TokenWindows, WindowModule, heldout_batches

pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # a resumed run saves no more


def windows(count: int, context: int = 6) -> TokenWindows:
    """Window i holds BOS 1 and the tokens 100 i + 1 .. ; every third has two positions of padding."""
    tokens = torch.arange(count)[:, None] * 100 + torch.arange(context)
    tokens[:, 0] = 1
    lengths = torch.where(torch.arange(count) % 3 == 2, context - 2, context)
    return TokenWindows(tokens=tokens.int(), lengths=lengths.int(), bos=True)


def module(count: int = 11, **changes: Any) -> WindowModule:
    return WindowModule(**({"train": windows(count), "batch_size": 4, "steps": 20, "seed": 3} | changes))


@settings(deadline=None, max_examples=50)
@given(count=st.integers(1, 12), batch_size=st.integers(1, 15), seed=st.integers(0, 5))
def test_every_epoch_has_every_window_once(count: int, batch_size: int, seed: int) -> None:
    data = module(count, batch_size=batch_size, seed=seed)
    seen = torch.cat([data.indices(step) for step in range(2 * count)])
    for epoch in seen[: len(seen) // count * count].split(count):
        assert epoch.sort().values.tolist() == list(range(count))


def test_epochs_and_seeds_differ_and_a_step_needs_no_history() -> None:
    data = module(50, batch_size=50)
    assert not torch.equal(data.indices(0), data.indices(1))
    assert not torch.equal(data.indices(0), module(50, batch_size=50, seed=4).indices(0))
    assert torch.equal(module(50, batch_size=50).indices(7), data.indices(7))


def test_ranks_share_a_batch_without_overlap() -> None:
    data = module()
    whole = data.batch(5, rank=0, world_size=1)
    for world_size in (1, 2, 4):
        shares = [data.batch(5, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert torch.equal(torch.cat([share.tokens for share in shares]), whole.tokens)
        assert torch.equal(torch.cat([share.live for share in shares]), whole.live)


def test_uneven_shares_are_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size=4: must be divisible by the 3 devices"):
        module().batch(0, rank=0, world_size=3)


def test_without_a_trainer_the_loader_has_every_step() -> None:
    loader = module().train_dataloader()
    assert len(loader) == 20
    assert len(list(loader)) == 20


class Embedder(lightning.LightningModule):
    """A model with momentum whose end depends on the order of the batches; it may die in the middle of a step."""

    def __init__(self, dies_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(1_200, 3)
        self.seen: list[list[int]] = []
        self.dies_at = dies_at

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        assert isinstance(batch, Batch)
        assert batch.tokens.dtype == torch.int64
        assert batch.live.dtype == torch.bool
        if index == self.dies_at:
            raise KeyboardInterrupt
        self.seen.append((batch.tokens[:, 1] // 100).tolist())
        loss = (self.table(batch.tokens)[batch.live] - 1).pow(3).mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.05)


def fit(
    model: Embedder, folder: Path, ckpt_path: str | None = None, data: WindowModule | None = None, **changes: Any
) -> lightning.Trainer:
    trainer = lightning.Trainer(
        **(
            {
                "accelerator": "cpu",
                "devices": 1,
                "max_epochs": 1,
                "use_distributed_sampler": False,
                "logger": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "enable_checkpointing": "callbacks" in changes,
                "default_root_dir": folder,
            }
            | changes
        )
    )
    trainer.fit(model, data or module(), ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    return trainer


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The whole run, which also leaves a checkpoint after steps 7, 14 and 20."""
    folder = tmp_path_factory.mktemp("whole")
    saver = ModelCheckpoint(dirpath=folder, filename="{step}", every_n_train_steps=7, save_top_k=-1)
    model = Embedder()
    fit(model, folder, callbacks=[saver])
    return {"model": model, "folder": folder}


def test_the_trainer_sees_the_steps_in_order(uninterrupted: dict[str, Any]) -> None:
    data = module()
    assert uninterrupted["model"].seen == [data.indices(step).tolist() for step in range(20)]


@pytest.mark.parametrize("step", [7, 14])
@pytest.mark.filterwarnings("error:You're resuming from a checkpoint")
def test_a_resumed_run_ends_bit_for_bit_like_the_uninterrupted(
    uninterrupted: dict[str, Any], tmp_path: Path, step: int
) -> None:
    resumed = Embedder()
    trainer = fit(resumed, tmp_path, ckpt_path=str(uninterrupted["folder"] / f"step={step}.ckpt"))
    assert resumed.seen == uninterrupted["model"].seen[step:]
    assert torch.equal(resumed.table.weight, uninterrupted["model"].table.weight)
    assert trainer.global_step == 20


def test_a_run_killed_in_a_step_repeats_that_step(uninterrupted: dict[str, Any], tmp_path: Path) -> None:
    class SaveWhenKilled(lightning.Callback):
        def on_exception(self, trainer: lightning.Trainer, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / "killed.ckpt")

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(Embedder(dies_at=9), tmp_path, callbacks=[SaveWhenKilled()])
    resumed = Embedder()
    fit(resumed, tmp_path, ckpt_path=str(tmp_path / "killed.ckpt"))
    assert resumed.seen == uninterrupted["model"].seen[9:]
    assert torch.equal(resumed.table.weight, uninterrupted["model"].table.weight)


def test_a_finished_run_resumed_does_nothing(uninterrupted: dict[str, Any], tmp_path: Path) -> None:
    saver = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=20, save_top_k=-1)
    fit(Embedder(), tmp_path, callbacks=[saver])
    resumed = Embedder()
    fit(resumed, tmp_path, ckpt_path=str(tmp_path / "step=20.ckpt"))
    assert resumed.seen == []
    assert torch.equal(resumed.table.weight, uninterrupted["model"].table.weight)


def test_gradient_accumulation_resumes_too(tmp_path: Path) -> None:
    saver = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=3, save_top_k=-1)
    whole, resumed = Embedder(), Embedder()
    fit(whole, tmp_path, callbacks=[saver], accumulate_grad_batches=2)
    fit(resumed, tmp_path, ckpt_path=str(tmp_path / "step=3.ckpt"), accumulate_grad_batches=2)
    assert resumed.seen == whole.seen[6:]
    assert torch.equal(resumed.table.weight, whole.table.weight)


def test_resuming_with_other_batches_is_refused(uninterrupted: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = str(uninterrupted["folder"] / "step=7.ckpt")
    with pytest.raises(ConfigError, match="seed=4: the checkpoint was saved with seed=3"):
        fit(Embedder(), tmp_path, ckpt_path=checkpoint, data=module(seed=4))


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_batches_survive_every_precision(tmp_path: Path, precision: Any) -> None:
    fit(Embedder(), tmp_path, precision=precision, data=module(steps=2))


def test_the_loader_takes_rank_and_position_from_the_trainer() -> None:
    progress = SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(processed=17, ready=18)))
    data, tokens = module(), []
    for rank in range(2):
        data.trainer = SimpleNamespace(  # type: ignore[assignment]
            fit_loop=SimpleNamespace(epoch_loop=progress), global_rank=rank, world_size=2
        )
        tokens.append(torch.stack([batch.tokens for batch in data.train_dataloader()]))
    whole = [data.batch(step, rank=0, world_size=1).tokens for step in (17, 18, 19)]
    assert torch.equal(torch.cat(tokens, dim=1), torch.stack(whole))


def test_heldout_batches_are_spread_over_the_windows_up_to_a_bound() -> None:
    side = windows(10)  # lengths 6 6 4 6 6 4 ...
    half = list(heldout_batches(side, tokens=side.n_tokens // 2, batch_size=3))
    assert torch.equal(torch.cat([batch.tokens for batch in half]), side.batch([0, 2, 4, 6, 8]).tokens)
    assert [len(batch.tokens) for batch in half] == [3, 2]
    assert torch.equal(next(heldout_batches(side, tokens=1, batch_size=3)).tokens, side.batch([0]).tokens)
    assert sum(len(batch.tokens) for batch in heldout_batches(side, tokens=10_000, batch_size=4)) == 10


def test_a_batch_moves_whole() -> None:
    moved = windows(2).batch([1]).to("meta")
    assert moved.tokens.device.type == moved.live.device.type == "meta"
