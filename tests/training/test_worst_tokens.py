"""The share of the worst tokens: what is logged, on which steps, and the one warning that names the token."""

import csv
import dataclasses
import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fits import training

from scae.config import Logger, TrainerConfig
from scae.data import TokenWindows, WindowModule
from scae.lm import LanguageModel, Module
from scae.objectives import Objective
from scae.objectives.terms import LogitKl, Recon
from scae.suite import Suite
from scae.training import Place, SuiteTraining, WorstTokens, fit
from scae.training.worst_tokens import Owned, share_of_worst

Make = Callable[..., Any]
STEPS, BATCH, CONTEXT = 6, 4, 10


@pytest.fixture(scope="module")
def windows() -> TokenWindows:
    tokens = torch.randint(40, (8, CONTEXT), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    return TokenWindows(tokens=tokens, lengths=torch.full((8,), CONTEXT, dtype=torch.int32), bos=True)


@pytest.fixture
def make_sparse(gpt2: LanguageModel, make_suite: Make, ragged: Make) -> Callable[[], Suite]:
    """A suite whose pruned pass goes along some connections only; always the same."""

    def make() -> Suite:
        suite = make_suite(gpt2)
        suite.connect(ragged(suite.layout))
        return suite

    return make


class Counting(Objective):
    """How often the shares of tokens were asked for."""

    asked = 0

    def by_token(self, *args: Any) -> dict[str, torch.Tensor]:
        self.asked += 1
        return super().by_token(*args)


def train(
    windows: TokenWindows,
    suite: Suite,
    folder: Path,
    *,
    threshold: float = 0.95,
    every: int = 1,
    accumulate: int = 1,
) -> tuple[Counting, list[dict[str, str]]]:
    """Finetune; returns the objective and the rows of the log that hold a share."""
    objective = Counting([Recon(weight=1.0, kind="mse", knee=4.0), LogitKl(weight=1.0, temperature=1.0)])
    config = training(steps=STEPS, batch_size=BATCH, lr=1e-3, warmup=0.1, decay=0.3)
    trainer: dict[str, Any] = {
        "accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": "32-true",
        "accumulate": accumulate, "clip": 1.0, "chunk_mb": 32, "checkpoint_minutes": 60.0,
        "checkpoint_steps": None, "keep_checkpoints": "all",
        "worst_share_warning": threshold, "progress": False,
    }  # fmt: skip
    fit(
        SuiteTraining(suite, objective, config, mode="pruned", clip=1.0, identity={"artifact": "x"}),
        WindowModule(train=windows, batch_size=BATCH, steps=STEPS * accumulate, seed=5),
        steps=STEPS,
        tokens_per_step=40,
        trainer=TrainerConfig(**trainer),
        logger=Logger(kind="csv", every=every, project=None, mode=None),
        place=Place("finetune", folder, "group", "finetune"),
        seed=0,
        callbacks=[WorstTokens("finetune", threshold)],
    )
    rows = list(csv.DictReader((folder / "logs" / "metrics.csv").read_text().splitlines()))
    return objective, [row for row in rows if row["train/worst_share"]]


def test_the_share_of_the_worst() -> None:
    assert float(share_of_worst(torch.ones(2000))) == pytest.approx(0.001)
    assert float(share_of_worst(torch.ones(50))) == pytest.approx(1 / 50)
    one = torch.ones(1999)
    assert float(share_of_worst(torch.cat([one, torch.tensor([1e6])]))) == pytest.approx(1.0, abs=0.01)
    assert float(share_of_worst(torch.tensor([3.0, 1.0, 0.0]))) == pytest.approx(0.75)
    assert float(share_of_worst(torch.zeros(10))) == 0.0


def test_only_text_can_be_worst() -> None:
    live = torch.tensor([[False, True, True], [False, True, False]])
    each = torch.tensor([[9.0, 1.0, 2.0], [9.0, 3.0, 9.0]])
    owned = Owned("loss", each, {})
    assert owned.worst(live) == (1, 1)
    assert float(owned.share(live)) == pytest.approx(0.5)


@pytest.mark.parametrize(("every", "accumulate", "steps"), [(1, 1, [0, 1, 2, 3, 4, 5]), (3, 1, [2, 5]), (3, 2, [2, 5])])
def test_shares_are_measured_on_logging_steps_only(
    gpt2: LanguageModel,
    windows: TokenWindows,
    make_sparse: Callable[[], Suite],
    tmp_path: Path,
    every: int,
    accumulate: int,
    steps: list[int],
) -> None:
    objective, rows = train(windows, make_sparse(), tmp_path, every=every, accumulate=accumulate)
    assert [int(row["step"]) for row in rows] == steps
    assert objective.asked == len(steps)
    for row in rows:
        assert 1 / 36 < float(row["train/worst_share"]) < 0.95
        assert 1 / 36 < float(row["train/worst_share_gradient"]) < 0.95


def test_the_gradient_covers_every_path(
    gpt2: LanguageModel, windows: TokenWindows, make_sparse: Callable[[], Suite], tmp_path: Path
) -> None:
    """The first logged share against one that is made of autograd's derivatives, token by token."""
    _, rows = train(windows, make_sparse(), tmp_path)
    data = WindowModule(train=windows, batch_size=BATCH, steps=STEPS, seed=5)
    batch = data.batch(0, rank=0, world_size=1)
    suite = make_sparse().train()
    objective = Objective([Recon(weight=1.0, kind="mse", knee=4.0), LogitKl(weight=1.0, temperature=1.0)])
    trace = gpt2.trace(batch.tokens, batch.live)
    out = suite(trace, "pruned")
    codes = list(out.codes.values())
    gradients = torch.autograd.grad(objective(out, trace, gpt2.paths).total, [code.value for code in codes])
    norms = torch.zeros(batch.tokens.numel(), dtype=torch.float64)
    for code, gradient in zip(codes, gradients, strict=True):
        for token, value in zip(code.row.tolist(), gradient.tolist(), strict=True):
            norms[token] += value**2
    norms = norms.sqrt()
    expected = float(norms.max() / norms.sum())
    assert float(rows[0]["train/worst_share_gradient"]) == pytest.approx(expected, rel=1e-6)


def test_one_warning_names_site_token_window_and_position(
    gpt2: LanguageModel,
    windows: TokenWindows,
    make_sparse: Callable[[], Suite],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Wherever window 3 comes, its token at position 6 is a thousand times too large in one module."""
    loud, true_trace = windows.tokens[3].long(), gpt2.trace

    def shouting(tokens: Any, *args: Any, **kwargs: Any) -> Any:
        trace = true_trace(tokens, *args, **kwargs)
        outputs = {module: value.clone() for module, value in trace.outputs.items()}
        outputs[Module(1, "mlp")][(tokens == loud).all(1), 6] *= 1000
        return dataclasses.replace(trace, outputs=outputs)

    monkeypatch.setattr(gpt2, "trace", shouting)
    monkeypatch.setattr(gpt2, "tokenizer", SimpleNamespace(decode=lambda ids: "".join(f"\n{i}" for i in ids)))
    with caplog.at_level(logging.WARNING):
        _, rows = train(windows, make_sparse(), tmp_path)
    assert max(float(row["train/worst_share"]) for row in rows) > 0.99
    (told,) = [r.getMessage() for r in caplog.records if "trainer.worst_share_warning" in r.getMessage()]
    before = "".join(f"\\n{i}" for i in loud[:6].tolist())
    assert re.match(r"finetune, step [12]: 1 of 36 tokens hold (99|100)% of the loss", told)
    assert f"The worst is '\\n{int(loud[6])}' after '{before}', position 6 of training window 3, " in told
    assert "most of it in the reconstruction at 1.mlp" in told
