"""`trainer.accumulate`: two micro-steps of half the batch are one step of the whole, where the loss is a mean."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fits import state, trainer, training

from scae.config import Logger
from scae.data import TokenWindows, WindowModule
from scae.lm import LanguageModel
from scae.objectives import Objective, terms
from scae.training import Place, SuiteTraining, fit

Make = Callable[..., Any]
STEPS = 5
MEANS = {
    "mse": terms.Recon(weight=1.0, kind="mse", knee=4.0),
    "huber": terms.Recon(weight=1.0, kind="huber", knee=0.5),
    "ce": terms.CrossEntropy(weight=1.0),
    "kl": terms.LogitKl(weight=1.0, temperature=1.5),
    "sparsity": terms.Sparsity(weight=0.1),
}


@pytest.fixture(scope="module")
def windows() -> TokenWindows:
    """All of one length: a mean of means is the mean."""
    tokens = torch.randint(40, (48, 10), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    return TokenWindows(tokens=tokens, lengths=torch.full((48,), 10, dtype=torch.int32), bos=True)


def trained(suite: Any, windows: TokenWindows, folder: Path, term: Any, *, accumulate: int, batch: int) -> dict:
    folder.mkdir()
    objective = Objective([term], offers=("penalty",) if isinstance(term, terms.Sparsity) else ())
    config = training(steps=STEPS, batch_size=batch)
    fit(
        SuiteTraining(suite, objective, config, mode="spliced", clip=0.1, identity={}),
        WindowModule(train=windows, batch_size=batch, steps=STEPS * accumulate, seed=5),
        steps=STEPS,
        tokens_per_step=80,
        trainer=trainer(accumulate=accumulate, checkpoint_minutes=60.0),
        logger=Logger(kind="csv", every=5, project=None, mode=None),
        place=Place("pretrain", folder, "group", "pretrain"),
        seed=0,
    )
    return state(suite)


def both(gpt2: LanguageModel, make_suite: Make, windows: TokenWindows, folder: Path, activation: str, term: Any) -> Any:
    """After as many optimiser steps on the same windows: the batch in halves, and whole."""
    return (
        trained(
            make_suite(gpt2, activation=activation, n_features=24),
            windows,
            folder / name,
            term,
            accumulate=of,
            batch=8 // of,
        )
        for name, of in (("halves", 2), ("whole", 1))
    )


@pytest.mark.parametrize("loss", MEANS)
def test_a_batch_in_halves_is_the_whole_batch(
    gpt2: LanguageModel, make_suite: Make, windows: TokenWindows, tmp_path: Path, loss: str
) -> None:
    activation = "relu" if loss == "sparsity" else "topk"
    halves, whole = both(gpt2, make_suite, windows, tmp_path, activation, MEANS[loss])
    start = state(make_suite(gpt2, activation=activation, n_features=24))
    for name, value in whole.items():
        if name.endswith("tokens_since_fired"):  # clocks tick once a micro-step, of 4 windows of 9 text tokens
            assert int((halves[name] - value).abs().max()) <= 36
            continue
        torch.testing.assert_close(halves[name], value, rtol=1e-8, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")
    assert not torch.equal(whole["dictionaries.0_attn.encoder.W"], start["dictionaries.0_attn.encoder.W"])
    assert int(whole["dictionaries.0_attn.tokens_since_fired"].max()) > 0


def test_batchtopk_cuts_each_micro_step_by_itself(
    gpt2: LanguageModel, make_suite: Make, windows: TokenWindows, tmp_path: Path
) -> None:
    """So its batch is what is held in memory at a time: no two micro-steps need each other."""
    halves, whole = both(gpt2, make_suite, windows, tmp_path, "batchtopk", MEANS["mse"])
    name = "dictionaries.0_attn.activation.threshold"
    assert float(whole[name]) > 0
    assert abs(float(halves[name]) - float(whole[name])) > 1e-6
