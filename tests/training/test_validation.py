"""Validation: its numbers, that it moves nothing, what is kept of the best, and where training ends early."""

import csv
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fits
import lightning
import pytest
import torch
from fits import Interrupted, between_steps, objective, state, training

from scae.artifacts.checkpoints import CHECKPOINT
from scae.config import AuxK, Validation
from scae.core.failures import NonFiniteError
from scae.data import TokenWindows
from scae.lm import LanguageModel
from scae.suite import Mode, Suite
from scae.training import SuiteTraining, Validate

Make = Callable[..., Any]
STEPS, EVERY, CONTEXT, BATCH = 16, 3, 10, 4
WILD = {
    "lr": 1.0,
    "warmup": 0.99,
    "decay": 0.0,
    "unit_norm": False,
}  # the rate rises, and so does the loss from step 7 on


def windows(seed: int, count: int) -> TokenWindows:
    tokens = torch.randint(40, (count, CONTEXT), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
    lengths = torch.where(torch.arange(count) % 3 == 0, CONTEXT - 3, CONTEXT).int()
    return TokenWindows(tokens=tokens, lengths=lengths, bos=True)


TEXT, ASIDE = windows(1, 50), windows(2, 8)


def settings(**changes: Any) -> Validation:
    values = {"every": EVERY, "tokens": 80, "metric": "loss", "keep": "last", "patience": None, "min_delta": 0.0}
    return Validation.model_validate(values | changes)


def run(
    suite: Suite,
    folder: Path,
    *callbacks: lightning.Callback,
    config: Validation | None,
    mode: Mode = "plain",
    accumulate: int = 1,
    module: type[SuiteTraining] = SuiteTraining,
    auxk: float = 0.0,
    **changes: Any,
) -> tuple[int, Validate | None]:
    """The number of steps, and the validation."""
    validate = None
    if config is not None:
        validate = Validate("pretrain", suite, config, ASIDE, batch_size=BATCH)
    steps = fits.run(
        suite,
        TEXT,
        folder,
        loss=objective(auxk=auxk),
        mode=mode,
        config=training(**changes),
        accumulate=accumulate,
        clip=None,
        module=module,
        callbacks=callbacks,
        validate=validate,
    )
    return steps, validate


def rows(folder: Path) -> dict[int, dict[str, str]]:
    """By the number of steps done."""
    with (folder / "logs" / "metrics.csv").open() as file:
        return {int(row["step"]) + 1: row for row in csv.DictReader(file)}


def measured(suite: Suite, mode: Mode) -> dict[str, float]:
    module = SuiteTraining(suite, objective(), training(), mode=mode, clip=None, identity={})
    module.trainer = lightning.Trainer(logger=False, barebones=True, accelerator="cpu")
    return Validate("x", suite, settings(), ASIDE, batch_size=BATCH).measure(module, rank=0, world_size=1)


# the numbers


@pytest.mark.parametrize("mode", ["plain", "pruned"])
@pytest.mark.parametrize("activation", ["topk", "batchtopk", "relu"])
def test_the_numbers_are_those_of_inference(
    gpt2: LanguageModel, make_suite: Make, ragged: Make, activation: str, mode: Mode
) -> None:
    """Beside sums over tokens, one by one."""
    suite = make_suite(gpt2, activation=activation)
    suite.connect(ragged(suite.layout))
    if activation == "batchtopk":
        for number, site in enumerate(suite.sites):
            suite[site].activation.threshold.fill_(0.1 + 0.05 * number)
        suite.threshold_pass = mode
    suite.train()
    found = measured(suite, mode)
    suite.eval()
    losses = []
    seen: dict[Any, list[Any]] = {site: [] for site in suite.sites}
    for first in (0, BATCH):
        batch = ASIDE.batch(range(first, first + BATCH))
        with torch.no_grad():
            trace = gpt2.trace(batch.tokens, batch.live)
            out = suite(trace, mode=mode)
            losses.append(float(objective()(out, trace, gpt2.paths).total))
        for site in suite.sites:
            fired = torch.bincount(out.codes[site].row[out.codes[site].value > 0], minlength=batch.live.numel())
            for b, p in batch.live.nonzero().tolist():
                y, ours = trace.outputs[site.module][b, p], out.outputs[site.module][b, p]
                seen[site].append((y, ours, int(fired[b * CONTEXT + p])))
    assert found["loss"] == found["recon"] == pytest.approx(sum(losses) / 2, rel=1e-12)
    fvus, l0s = [], []
    for site, tokens in seen.items():
        mean = sum(y for y, _, _ in tokens) / len(tokens)
        error = sum(float((y - ours).square().sum()) for y, ours, _ in tokens)
        fvus.append(error / sum(float((y - mean).square().sum()) for y, _, _ in tokens))
        l0s.append(sum(count for _, _, count in tokens) / len(tokens))
        assert found[f"fvu/{site}"] == pytest.approx(fvus[-1], rel=1e-9)
    assert found["fvu_mean"] == pytest.approx(sum(fvus) / len(fvus), rel=1e-9)
    assert found["fvu_max"] == pytest.approx(max(fvus), rel=1e-9)
    assert found["l0"] == pytest.approx(sum(l0s) / len(l0s))


@pytest.mark.parametrize("activation", ["topk", "batchtopk"])
def test_validation_moves_nothing(gpt2: LanguageModel, make_suite: Make, tmp_path: Path, activation: str) -> None:
    """To the bit: weights, thresholds, clocks; and what is logged of training is the same."""
    suites = {}
    for name, config in (("with", settings(every=1)), ("without", None)):
        suites[name] = make_suite(gpt2, activation=activation, auxk=AuxK(k=3, dead_after=100))
        run(suites[name], tmp_path / name, config=config, auxk=1.0)
    ours, theirs = state(suites["with"]), state(suites["without"])
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    ours_rows, their_rows = rows(tmp_path / "with"), rows(tmp_path / "without")
    assert list(their_rows) == [5, 10, 15]
    assert list(ours_rows) == list(range(1, STEPS + 1))
    for step, row in their_rows.items():
        assert {name: ours_rows[step][name] for name in row} == row


def test_what_is_written(gpt2: LanguageModel, make_suite: Make, tmp_path: Path) -> None:
    """A row where there is a validation, the last step has one, and it is of the suite after that step."""
    suite = make_suite(gpt2, auxk=AuxK(k=3, dead_after=10))
    steps, _ = run(suite, tmp_path, config=settings(), auxk=1.0)
    written = rows(tmp_path)
    assert steps == STEPS
    assert list(written) == [3, 5, 6, 9, 10, 12, 15, 16]
    names = {"loss", "recon", "fvu_mean", "fvu_max", "l0", *(f"fvu/{site}" for site in suite.sites)}
    assert {name.removeprefix("valid/") for name in written[3] if name.startswith("valid/")} == names
    assert written[5]["valid/loss"] == written[3]["valid/loss"] != written[6]["valid/loss"]
    now = measured(suite, "plain")
    for name in names:
        assert float(written[STEPS][f"valid/{name}"]) == pytest.approx(now[name], rel=1e-6), name


# the best


class Rewire(lightning.Callback):
    """Other connections after every step."""

    def __init__(self, suite: Suite, ragged: Make) -> None:
        self.suite, self.ragged = suite, ragged

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self.suite.connect(self.ragged(self.suite.layout, seed=trainer.global_step))


@pytest.mark.parametrize("metric", ["loss", "fvu_max"])
def test_the_best_is_the_best(gpt2: LanguageModel, make_suite: Make, ragged: Make, tmp_path: Path, metric: str) -> None:
    """Of a run whose loss rises in the end; with the connections that it had."""
    suite = make_suite(gpt2)
    rewire = Rewire(suite, ragged)
    config = settings(every=1, keep="best", metric=metric)
    _, validate = run(suite, tmp_path, rewire, config=config, mode="pruned", **WILD)
    assert validate is not None
    logged = {step: float(row[f"valid/{metric}"]) for step, row in rows(tmp_path).items()}
    best = min(logged, key=lambda step: logged[step])
    assert logged[best] < 0.9 * logged[STEPS]
    assert measured(suite, "pruned")[metric] == pytest.approx(logged[STEPS], rel=1e-6)
    validate.finish()
    assert validate.kept_at == best < STEPS
    assert measured(suite, "pruned")[metric] == validate.course.best == pytest.approx(logged[best], rel=1e-6)
    assert suite.connections == ragged(suite.layout, seed=best)
    assert validate.facts() == {"best_step": best, f"best_{metric}": validate.course.best}


def test_without_being_asked_the_last_is_kept(gpt2: LanguageModel, make_suite: Make, tmp_path: Path) -> None:
    suite = make_suite(gpt2)
    _, validate = run(suite, tmp_path, config=settings(every=1), **WILD)
    assert validate is not None
    before = state(suite)
    validate.finish()
    assert validate.kept_at is None
    assert validate.course.at < STEPS
    assert all(torch.equal(value, before[name]) for name, value in state(suite).items())


# interruptions


@pytest.mark.parametrize(
    ("accumulate", "at", "changes"),
    [(1, 10, {}), (1, 12, {}), (2, 15, {}), (1, 11, WILD), (1, 13, WILD)],
    ids=["between two", "behind one", "within a step", "wild 11", "wild 13"],
)
def test_an_interrupted_and_resumed_run_is_the_same_run(
    gpt2: LanguageModel, make_suite: Make, tmp_path: Path, accumulate: int, at: int, changes: dict[str, Any]
) -> None:
    """To the bit: the suite that is kept, the last one, the course of the validations, the history."""
    config = settings(keep="best", patience=9)
    found = {}
    for name in ("whole", "halves"):
        if name == "halves":
            with pytest.raises(Interrupted):
                run(
                    make_suite(gpt2, activation="batchtopk"),
                    tmp_path / name,
                    config=config,
                    accumulate=accumulate,
                    module=between_steps(at),
                    **changes,
                )
            assert torch.load(tmp_path / name / CHECKPOINT, weights_only=True)["global_step"] == at // accumulate
        suite = make_suite(gpt2, activation="batchtopk")
        steps, validate = run(suite, tmp_path / name, config=config, accumulate=accumulate, **changes)
        assert validate is not None
        last = state(suite)
        validate.finish()
        history = (tmp_path / name / "logs" / "metrics.csv").read_bytes()
        found[name] = last, state(suite), validate.course, steps, history
    assert (found["whole"][2].at < at) == (changes == WILD), "the best lies in the checkpoint alone"
    for one, other in zip(found["whole"][:2], found["halves"][:2], strict=True):
        assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert found["whole"][2:] == found["halves"][2:]


# an early end


def test_training_ends_where_nothing_improves(
    gpt2: LanguageModel, make_suite: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    suite = make_suite(gpt2)
    steps, validate = run(suite, tmp_path, config=settings(every=1, patience=3), **WILD)
    assert validate is not None
    course = validate.course
    assert steps == course.ended == course.at + 3 < STEPS
    assert list(rows(tmp_path)) == list(range(1, steps + 1))
    (line,) = [one.getMessage() for one in caplog.records if "ends early" in one.getMessage()]
    assert line.startswith(f"pretrain: ends early, after step {steps} of {STEPS}: no valid/loss below ")
    assert line.endswith(f"in 3 validations; the best was {course.best:.6g}, after step {course.at}")
    saved = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert saved["global_step"] == steps
    ended = state(suite)
    again = make_suite(gpt2)  # killed between this checkpoint and the end of the stage
    resumed, validate = run(again, tmp_path, config=settings(every=1, patience=3), **WILD)
    assert validate is not None
    assert (resumed, validate.course) == (steps, course)
    assert all(torch.equal(value, ended[name]) for name, value in state(again).items())


def test_small_improvements_are_none(gpt2: LanguageModel, make_suite: Make, tmp_path: Path) -> None:
    """The loss falls all the time, by less than min_delta; the best is the last all the same."""
    suite = make_suite(gpt2)
    config = settings(every=1, patience=4, min_delta=1e9, keep="best")
    steps, validate = run(suite, tmp_path, config=config)
    assert validate is not None
    logged = [float(row["valid/loss"]) for row in rows(tmp_path).values()]
    assert logged == sorted(logged, reverse=True)
    assert steps == 5  # the first is an improvement on nothing
    assert validate.kept_at == 5


def test_it_does_not_end_early_at_the_end(gpt2: LanguageModel, make_suite: Make, tmp_path: Path) -> None:
    steps, validate = run(make_suite(gpt2), tmp_path, config=settings(every=1, patience=15, min_delta=1e9))
    assert validate is not None
    assert (steps, validate.course.ended) == (STEPS, None)


def test_what_steers_must_be_finite(gpt2: LanguageModel, make_suite: Make) -> None:
    suite = make_suite(gpt2)
    running: Any = lightning.Trainer(logger=False, barebones=True, accelerator="cpu", max_steps=5)
    for keep, patience in (("best", None), ("last", 2)):
        validate = Validate("pretrain", suite, settings(keep=keep, patience=patience), ASIDE, batch_size=BATCH)
        with pytest.raises(NonFiniteError, match=r"pretrain stopped after step 0; valid/loss is nan"):
            validate._steer(running, math.nan)
    Validate("pretrain", suite, settings(), ASIDE, batch_size=BATCH)._steer(running, math.nan)
