"""Training stops where a number is not finite: the error names the place, and what was good before stays."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fits import training

from scae.artifacts.checkpoints import CHECKPOINT
from scae.config import Logger, TinyModel, TrainerConfig
from scae.core.failures import NonFiniteError
from scae.data import TokenWindows, WindowModule
from scae.lm import LanguageModel
from scae.lm.tiny import TinyTraining
from scae.objectives import Comparison, Objective, Term
from scae.objectives.terms import Recon
from scae.sites import Site
from scae.suite import Suite
from scae.training import Place, SuiteTraining, fit

Make = Callable[..., Any]
STEPS, BATCH, CONTEXT = 8, 4, 10
LAST_GOOD = 4  # optimiser steps before the one that goes wrong


@pytest.fixture(scope="module")
def gpt2(build_tiny: Make) -> LanguageModel:
    return build_tiny("gpt2").lm


@pytest.fixture(scope="module")
def windows() -> TokenWindows:
    tokens = torch.randint(40, (50, CONTEXT), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    return TokenWindows(tokens=tokens, lengths=torch.full((50,), CONTEXT, dtype=torch.int32), bos=True)


def train(
    module: Any, windows: TokenWindows, folder: Path, *, stage: str = "pretrain", section: str = "", accumulate: int = 1
) -> Any:
    """Fit with a checkpoint after every step; returns the data. section: the stage itself where none is named."""
    folder.mkdir(exist_ok=True, parents=True)
    data = WindowModule(train=windows, batch_size=BATCH, steps=STEPS * accumulate, seed=5)
    values: dict[str, Any] = {
        "accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": "32-true",
        "accumulate": accumulate, "clip": 1.0, "chunk_mb": 32, "checkpoint_minutes": 1e-6,
        "checkpoint_steps": None, "keep_checkpoints": "all", "progress": False,
        "worst_share_warning": 0.99,
    }  # fmt: skip
    fit(
        module,
        data,
        steps=STEPS,
        tokens_per_step=40,
        trainer=TrainerConfig(**values),
        logger=Logger(kind="csv", every=5, project=None, mode=None),
        place=Place(stage, folder, "group", section or stage),
        seed=0,
    )
    return data


def suite_training(suite: Suite, *terms: Term, cls: type[SuiteTraining] = SuiteTraining) -> SuiteTraining:
    config = training(steps=STEPS, batch_size=BATCH, lr=0.01, warmup=0.1, decay=0.3)
    objective = Objective([Recon(weight=1.0, kind="fvu", knee=4.0), *terms])
    return cls(suite, objective, config, mode="pruned", clip=1.0, identity={"artifact": "pretrain-1"})


def at_step(what: Callable[[SuiteTraining], None], *, hook: str = "on_train_batch_start") -> type[SuiteTraining]:
    """A training to which something happens once, when LAST_GOOD steps have been done."""

    class Sabotaged(SuiteTraining):
        pass

    def happen(self: SuiteTraining, *args: Any) -> Any:
        if self.global_step == LAST_GOOD:
            what(self)
        return getattr(SuiteTraining, hook)(self, *args)

    setattr(Sabotaged, hook, happen)
    return Sabotaged


class Failing(Term):
    """NaN from some micro-step on."""

    name = "failing"

    def __init__(self, after: int) -> None:
        super().__init__(weight=1.0)
        self.left = after

    def __call__(self, comparison: Comparison) -> torch.Tensor:
        self.left -= 1
        return comparison.out.residual().sum() * (float("nan") if self.left < 0 else 0.0)


def steps_in(folder: Path) -> int:
    checkpoint = torch.load(folder / CHECKPOINT, weights_only=True)
    assert all(
        torch.isfinite(value).all() for name, value in checkpoint["state_dict"].items() if not name.endswith("ceiling")
    )
    return checkpoint["global_step"]


def told(windows: TokenWindows, micro_step: int) -> str:
    """How an error names a batch."""
    indices = WindowModule(train=windows, batch_size=BATCH, steps=100, seed=5).indices(micro_step)
    return f"micro-step {micro_step}, training windows {', '.join(map(str, indices.tolist()))}\n"


@pytest.mark.parametrize(("accumulate", "after", "micro_step"), [(1, 4, 4), (2, 8, 8), (2, 9, 9)])
def test_a_loss_that_is_not_a_number(
    gpt2: LanguageModel,
    windows: TokenWindows,
    make_suite: Make,
    tmp_path: Path,
    accumulate: int,
    after: int,
    micro_step: int,
) -> None:
    """The error names the term and the micro-step; the checkpoint is that of the step before."""
    suite = make_suite(gpt2)
    with pytest.raises(NonFiniteError) as error:
        train(suite_training(suite, Failing(after)), windows, tmp_path, accumulate=accumulate)
    text = str(error.value)
    assert "pretrain stopped before step 5 of 8" in text
    assert "the term failing of the loss" in text
    assert "reconstruction" not in text
    assert told(windows, micro_step) in text
    assert str(tmp_path / CHECKPOINT) in text
    assert "pretrain.lr" in text
    assert steps_in(tmp_path) == LAST_GOOD
    for parameter in suite.parameters():
        assert torch.isfinite(parameter).all(), "the step was taken"


def test_a_gradient_of_one_site(gpt2: LanguageModel, windows: TokenWindows, make_suite: Make, tmp_path: Path) -> None:
    def poison(module: SuiteTraining) -> None:
        module.suite[Site(1, "attn")].encoder.b.grad[0] = float("inf")  # type: ignore[index]

    suite = make_suite(gpt2)
    module = suite_training(suite, cls=at_step(poison, hook="on_after_backward"))
    with pytest.raises(NonFiniteError, match=r"infinity\): the gradient of 1\.attn\n") as error:
        train(module, windows, tmp_path, stage="random", section="finetune")
    assert "random stopped before step 5 of 8" in str(error.value)
    assert told(windows, LAST_GOOD) in str(error.value)
    assert "finetune.lr" in str(error.value)
    assert steps_in(tmp_path) == LAST_GOOD


@pytest.mark.parametrize("name", ["decoder.b", "decoder.W"])
def test_a_weight(gpt2: LanguageModel, windows: TokenWindows, make_suite: Make, tmp_path: Path, name: str) -> None:
    def poison(module: SuiteTraining) -> None:
        module.suite[Site(0, "mlp")].get_parameter(name).data[:] = float("nan")

    with pytest.raises(NonFiniteError, match=rf"{re.escape(name)} of 0\.mlp, the reconstruction at 0\.mlp"):
        train(suite_training(make_suite(gpt2), cls=at_step(poison)), windows, tmp_path)
    assert steps_in(tmp_path) == LAST_GOOD


def test_a_weight_that_the_loss_does_not_see(
    gpt2: LanguageModel, windows: TokenWindows, make_suite: Make, tmp_path: Path
) -> None:
    """A feature whose bias is NaN never fires: the loss stays finite, the checkpoint must not hold it."""

    def poison(module: SuiteTraining) -> None:
        module.suite[Site(0, "mlp")].encoder.b.data[3] = float("nan")

    with pytest.raises(NonFiniteError, match=r"stopped after step 5 of 8.*: encoder\.b of 0\.mlp\n"):
        train(suite_training(make_suite(gpt2, activation="relu"), cls=at_step(poison)), windows, tmp_path)
    assert steps_in(tmp_path) == LAST_GOOD


def test_a_threshold_counts_as_a_weight(
    gpt2: LanguageModel, windows: TokenWindows, make_suite: Make, tmp_path: Path
) -> None:
    def poison(module: SuiteTraining) -> None:
        module.suite[Site(1, "mlp")].activation.threshold.fill_(float("inf"))

    suite = make_suite(gpt2, activation="batchtopk")
    with pytest.raises(NonFiniteError, match=r"stopped after step 5 of 8.*: activation\.threshold of 1\.mlp\n"):
        train(suite_training(suite, cls=at_step(poison)), windows, tmp_path)
    assert steps_in(tmp_path) == LAST_GOOD


def test_a_failure_before_the_first_checkpoint_says_so(
    gpt2: LanguageModel, windows: TokenWindows, make_suite: Make, tmp_path: Path
) -> None:
    with pytest.raises(NonFiniteError, match="none was written yet"):
        train(suite_training(make_suite(gpt2), Failing(0)), windows, tmp_path)
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_repeat_goes_on_from_the_last_good_checkpoint(
    gpt2: LanguageModel, windows: TokenWindows, make_suite: Make, tmp_path: Path
) -> None:
    with pytest.raises(NonFiniteError):
        train(suite_training(make_suite(gpt2), Failing(LAST_GOOD)), windows, tmp_path)
    seen = Failing(10_000)
    train(suite_training(make_suite(gpt2), seen), windows, tmp_path)
    assert 10_000 - seen.left == STEPS - LAST_GOOD
    assert steps_in(tmp_path) == STEPS


def test_the_embedded_model(windows: TokenWindows, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    network = LlamaForCausalLM(
        LlamaConfig(vocab_size=40, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    )
    config = TinyModel(
        kind="tiny", d_model=8, n_layers=1, n_heads=2, d_mlp=8, vocab_size=260, steps=STEPS, batch_size=BATCH,
        lr=0.01, warmup=0.05, decay=0.5, beta1=0.9, beta2=0.95, weight_decay=0.1, dtype="float32",
    )  # fmt: skip

    class Sabotaged(TinyTraining):
        def on_train_batch_start(self, *_: Any) -> None:
            if self.global_step == LAST_GOOD:
                self.model.lm_head.weight.data[7] = float("inf")

    with pytest.raises(NonFiniteError) as error:
        train(Sabotaged(network, config, identity={"artifact": "model-1"}), windows, tmp_path, stage="model")
    text = str(error.value)
    assert told(windows, LAST_GOOD) in text
    assert re.search(r"model stopped before step 5 of 8; .*: lm_head\.weight of the language model", text)
    assert "the logits" in text
    assert "model.lr" in text
    assert steps_in(tmp_path) == LAST_GOOD
