"""Validation, an early end and suites on the way, from a command line to what a run leaves."""

import json
import logging
from pathlib import Path

import pytest
import torch
from experiments import Finished, configure, copied_model, execute, finish

from scae.experiment.opened import load_suite
from scae.experiment.plan import Plan
from scae.experiment.stages.finetune import _say_what_pretraining_saw
from scae.experiment.suite_training import text_of
from scae.experiment.workshop import Workshop
from scae.report.history import read_lines
from scae.training import snapshots

LOOP = (
    "pretrain.validation.every=5",
    "pretrain.validation.tokens=256",
    "pretrain.validation.keep=best",
    "finetune.validation.every=2",
    "finetune.validation.tokens=256",
    "finetune.validation.metric=fvu_mean",
    "finetune.validation.patience=1",
    "finetune.validation.min_delta=1e6",  # no second validation improves on the first by so much
    "trainer.checkpoint_steps=3",
    "trainer.keep_checkpoints=2",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(tmp_path_factory)


def test_from_end_to_end(finished: Finished, tmp_path: Path) -> None:
    copied_model(finished, tmp_path / "artifacts")
    places = (f"paths.artifacts={tmp_path / 'artifacts'}", f"paths.output={tmp_path / 'run'}")
    config = configure(*finished.overrides, *places, *LOOP)
    metrics = execute(config)
    plan, before = Plan(config), Plan(finished.config)
    pretrain, finetune = plan.pretrain, plan.finetune(plan.pruned)
    assert plan.model is not None
    assert plan.model.name == before.model.name  # type: ignore[union-attr]
    assert pretrain.name != before.pretrain.name

    assert (metrics["tokens/pretrain"], metrics["tokens/finetune"]) == (12 * 4 * 32, 4 * 4 * 32)
    assert pretrain.facts()["validation"].keys() == {"best_step", "best_loss", "steps"}
    assert pretrain.facts()["validation"]["best_step"] in (5, 10, 12)
    assert finetune.facts()["validation"]["steps"] == 4
    lines = {one.kind: read_lines(one.folder / "logs" / "metrics.csv") for one in (pretrain, finetune)}
    assert [step for step, _ in lines["pretrain"]["valid/loss"]] == [5, 10, 12]
    assert [step for step, _ in lines["finetune"]["valid/fvu_mean"]] == [2, 4]
    assert {"valid/recon", "valid/logit_kl", "valid/l0", "valid/fvu/1.mlp"} <= lines["finetune"].keys()
    best = min(value for _, value in lines["pretrain"]["valid/loss"])
    assert pretrain.facts()["validation"]["best_loss"] == pytest.approx(best, rel=1e-6)

    assert list(snapshots(pretrain.folder)) == [9, 12]
    assert list(snapshots(finetune.folder)) == [3]
    (on_the_way, _), (last, _) = load_suite(tmp_path / "run", step=3), load_suite(tmp_path / "run")
    assert on_the_way.connections.layout == last.connections.layout
    site = last.sites[0]
    assert not torch.equal(on_the_way[site].encoder.W, last[site].encoder.W)
    early, lm = load_suite(tmp_path / "run", finetuned=False, step=9)
    assert torch.isfinite(early(lm.trace("ban kolo"), mode="plain").residual()).all()
    with pytest.raises(ValueError, match=r"holds no suite of step 4; kept: 3$"):
        load_suite(tmp_path / "run", step=4)
    with pytest.raises(ValueError, match=r"holds no suite of step 3; trainer\.checkpoint_steps was null"):
        load_suite(finished.output, step=3)

    page = (tmp_path / "run" / "report.md").read_text()
    assert "![Loss and dead features over training](curves.png)" in page
    assert (tmp_path / "run" / "curves.png").is_file()
    shares = [metrics[f"features/finetune/never_fired/{one}"] for one in last.sites]
    assert f"| finetune | {100 * sum(shares) / 4:.1f} |" in page
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics


def test_no_step_draws_what_is_kept_aside(finished: Finished, tmp_path: Path) -> None:
    config = configure(*finished.overrides, *LOOP)
    workshop = Workshop(config, Plan(config))
    whole = workshop.windows[0]
    text = text_of(workshop, config.pretrain, section="pretrain", seed=0)
    assert text.aside is not None
    assert len(text.aside) == 8
    assert torch.equal(text.data.train.tokens, whole.tokens[:-8])
    assert torch.equal(text.aside.tokens, whole.tokens[-8:])
    unvalidated = text_of(workshop, finished.config.pretrain, section="pretrain", seed=0)
    assert (unvalidated.data.train, unvalidated.aside) == (whole, None)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("pretrain.validation.every=null", "pretraining did; see"),
        ("pretrain.validation.tokens=128", "pretraining did in part; see"),
        ("pretrain.validation.tokens=256", None),
    ],
)
def test_finetuning_says_where_pretraining_saw_what_it_is_validated_on(
    finished: Finished, caplog: pytest.LogCaptureFixture, override: str, told: str | None
) -> None:
    caplog.set_level(logging.INFO)
    changed = ("pretrain.validation.every=5", "pretrain.validation.tokens=256", override)
    _say_what_pretraining_saw(configure(*finished.overrides, *changed), 8)
    assert [record.getMessage() for record in caplog.records if told is not None and told in record.getMessage()] or (
        told is None and not caplog.records
    )
