"""Suites of steps on the way: which are there, what they hold, and that nothing is left of a killed fit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from fits import Interrupted, between_steps, objective, state, trainer, training
from safetensors.torch import load_file

from scae.artifacts.checkpoints import CHECKPOINT
from scae.config import AuxK
from scae.config import Logger as LoggerConfig
from scae.data import TokenWindows, WindowModule
from scae.lm import LanguageModel
from scae.suite import Suite
from scae.suite.files import load
from scae.training import Place, Snapshots, SuiteTraining, firing_facts, fit, snapshots

Make = Callable[..., Any]
STEPS = 11


class Watch(lightning.Callback):
    """Remembers the suite after every step, and the step of the last checkpoint there was before it."""

    def __init__(self, suite: Suite, folder: Path) -> None:
        self.suite, self.folder = suite, folder
        self.states: dict[int, dict[str, torch.Tensor]] = {}
        self.saved: dict[int, int] = {}

    def on_train_batch_start(self, trainer: lightning.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx % trainer.accumulate_grad_batches:
            return
        checkpoint = self.folder / CHECKPOINT
        saved = torch.load(checkpoint, weights_only=True)["global_step"] if checkpoint.exists() else 0
        self.states[trainer.global_step], self.saved[trainer.global_step] = state(self.suite), saved


def text() -> WindowModule:
    tokens = torch.randint(40, (30, 10), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    lengths = 10 - torch.arange(30, dtype=torch.int32) % 4
    windows = TokenWindows(tokens=tokens, lengths=lengths, bos=True)
    return WindowModule(train=windows, batch_size=4, steps=2 * STEPS, seed=5)


def run(suite: Suite, folder: Path, *, keep: int | None, module: type[SuiteTraining] = SuiteTraining) -> Watch:
    """Two micro-steps a step, a checkpoint and a suite every two steps."""
    folder.mkdir(exist_ok=True)
    watch = Watch(suite, folder)
    fit(
        module(suite, objective(), training(steps=STEPS), mode="plain", clip=None, identity={"artifact": "x"}),
        text(),
        steps=STEPS,
        tokens_per_step=40,
        trainer=trainer(accumulate=2, checkpoint_minutes=60.0, checkpoint_steps=2),
        logger=LoggerConfig(kind="csv", every=5, project=None, mode=None),
        place=Place("pretrain", folder, "group", "pretrain"),
        seed=0,
        callbacks=[watch, Snapshots(suite, folder, every=2, keep=keep)],
    )
    return watch


def test_every_suite_on_the_way_is_that_of_its_step(
    gpt2: LanguageModel, make_suite: Make, ragged: Make, tmp_path: Path
) -> None:
    suite = make_suite(gpt2, activation="batchtopk")
    suite.connect(ragged(suite.layout))
    watch = run(suite, tmp_path, keep=None)
    assert list(snapshots(tmp_path)) == [2, 4, 6, 8, 10]
    assert next(path.name for path in snapshots(tmp_path).values()) == "000002"
    for step, folder in snapshots(tmp_path).items():
        there = load(folder, gpt2)
        assert there.connections == suite.connections
        for name, value in there.state_dict().items():
            assert torch.equal(value, watch.states[step][name].to(value.dtype)), (step, name)


def test_checkpoints_fall_on_steps(gpt2: LanguageModel, make_suite: Make, tmp_path: Path) -> None:
    """Whatever the time; the suites that were kept are the last ones."""
    watch = run(make_suite(gpt2), tmp_path, keep=2)
    assert watch.saved == {step: step // 2 * 2 for step in range(STEPS)}
    assert list(snapshots(tmp_path)) == [8, 10]


def test_a_killed_fit_leaves_no_other_suites_than_a_whole_one(
    gpt2: LanguageModel, make_suite: Make, tmp_path: Path
) -> None:
    """Killed while it wrote the suite after step 6; its checkpoint is that of step 4."""
    run(make_suite(gpt2), tmp_path / "whole", keep=3)
    halves = tmp_path / "halves"
    with pytest.raises(Interrupted):
        run(make_suite(gpt2), halves, keep=3, module=between_steps(10))
    assert torch.load(halves / CHECKPOINT, weights_only=True)["global_step"] == 4
    (halves / "steps" / "000006").mkdir()  # half of a suite
    assert list(snapshots(halves)) == [2, 4, 6]
    run(make_suite(gpt2), halves, keep=3)
    assert list(snapshots(halves)) == list(snapshots(tmp_path / "whole")) == [6, 8, 10]
    for step, folder in snapshots(halves).items():
        ours, theirs = (load_file(path / "suite.safetensors") for path in (folder, snapshots(tmp_path / "whole")[step]))
        assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


def test_what_never_fired_and_what_is_dead(gpt2: LanguageModel, make_suite: Make, tmp_path: Path) -> None:
    """Clocks that began before this training count for the dead, and not for what never fired in it."""
    data = text()
    live = data.live_tokens(2 * STEPS)
    suite = make_suite(gpt2, auxk=AuxK(k=3, dead_after=live + 50))
    first = suite.sites[0]
    suite[first].encoder.b.data[:3] = -1e6
    suite[first].tokens_since_fired[:2] = 50
    for site in suite.sites[1:]:
        suite[site].tokens_since_fired.fill_(10**6)
    run(suite, tmp_path, keep=1)
    assert int(suite[first].tokens_since_fired[2]) == live
    facts = firing_facts(suite, "pretrain", live_tokens=live)
    for site in suite.sites:
        clocks = suite[site].tokens_since_fired.tolist()
        assert facts[f"features/pretrain/never_fired/{site}"] == sum(clock >= live for clock in clocks) / len(clocks)
        assert facts[f"features/pretrain/dead/{site}"] == sum(clock >= live + 50 for clock in clocks) / len(clocks)
    assert facts[f"features/pretrain/dead/{first}"] == 2 / suite[first].n_features
    assert facts[f"features/pretrain/never_fired/{first}"] >= 3 / suite[first].n_features
