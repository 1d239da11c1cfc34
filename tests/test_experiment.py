"""The experiment from end to end on a very small configuration: what it writes, and what can be chosen."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import commands
import pytest
from experiments import (
    ROOT,
    SITES,
    TWINS,
    Finished,
    alone,
    configure,
    copied_model,
    execute,
    finished,
    train,
    variation,
)

from scae.config import ConfigError
from scae.experiment.plan import Plan

ARMS = ("plain", "dense", "pruned", "pruned_no_finetune", "random_no_finetune", *TWINS)
_ = alone, finished  # fixtures of the tests here

# what a run writes


def test_every_number_that_is_promised(finished: Finished) -> None:
    metrics = finished.metrics
    expected = {"lm/ce", "lm/ce_zero", "lm/ce_mean", "lm/ce_unigram", "lm/modules", "lm/replaced"}
    per_arm = {"ce", "ce_diff", "ce_recovered", "kl", "top1", "fvu_mean", "fvu_max", "connected_recovered"}
    per_arm |= {"above_dense"}
    per_arm |= {f"{name}/{site}" for name in ("fvu", "l0", "dead") for site in SITES}
    expected |= {f"{arm}/{key}" for arm in ARMS for key in per_arm}
    expected |= {f"connectivity/{d}_degree_{s}" for d in ("in", "out") for s in ("mean", "median", "max")}
    expected |= {f"connectivity/{name}" for name in ("C", "edges", "density", "regrown")}
    expected |= {f"connectivity/bypass/{site}" for site in SITES}
    expected |= {
        f"features/{stage}/{what}/{site}"
        for stage in ("pretrain", "finetune")
        for what in ("never_fired", "dead")
        for site in SITES
    }
    expected |= {f"connectivity/kept/{site}" for site in SITES[1:]}
    expected |= {f"connectivity/from/{d}/{u}" for i, d in enumerate(SITES) for u in SITES[:i]}
    of_pass = (
        "l0",
        "l1",
        "fvu",
        "explained_variance",
        "cosine",
        "mse",
        "dead",
        "never_fired",
        "plain_only",
        "no_input",
    )
    expected |= {f"analysis/{mode}/{key}/{s}" for mode in ("plain", "pruned") for key in of_pass for s in SITES}
    expected |= {f"analysis/ablation/{k}/{s}" for k in ("zero", "mean", "reconstruction") for s in ("all", *SITES)}
    expected |= {f"analysis/agreement/{key}/{s}" for key in ("mean_correlation", "mean_jaccard") for s in SITES}
    explained = ("replacement", "completeness", "strict_replacement", "strict_completeness", "constant")
    expected |= {f"analysis/explained{twin}/{key}" for twin in ("", "_random") for key in explained}
    stages = ("model", "pretrain", "select", "finetune", "twins", "evaluate", "analyze")
    expected |= {f"{what}/{stage}" for what in ("time", "tokens") for stage in stages}
    assert expected == set(metrics)
    assert all(isinstance(value, float | int) and math.isfinite(value) for value in metrics.values())


def test_the_numbers_hang_together(finished: Finished) -> None:
    m = finished.metrics
    for arm in ARMS:
        assert m[f"{arm}/ce_diff"] == pytest.approx(m[f"{arm}/ce"] - m["lm/ce"], abs=1e-9)
        fvus = [m[f"{arm}/fvu/{site}"] for site in SITES]
        assert m[f"{arm}/fvu_mean"] == pytest.approx(sum(fvus) / 4)
        assert m[f"{arm}/fvu_max"] == max(fvus)
        l0 = [m[f"{arm}/l0/{site}"] for site in SITES]
        assert max(l0) <= 4
        assert sum(l0) > 4
        assert m[f"{arm}/kl"] > 0
    assert m["connectivity/C"] == 6
    assert m["connectivity/in_degree_mean"] <= 6 < m["connectivity/in_degree_max"] <= 6 * 4
    assert m["none/connected_recovered"] == 0
    assert m["tokens/model"] == 80 * 4 * 32
    assert m["tokens/pretrain"] == 12 * 4 * 32
    assert m["tokens/finetune"] == 8 * 4 * 32
    assert m["tokens/twins"] == 4 * 8 * 4 * 32


def test_the_files_of_a_run(finished: Finished) -> None:
    note = json.loads((finished.output / "run.json").read_text())
    for stage in ("pretrain", "select", "finetune", "evaluate", "analyze"):
        assert (finished.output / note["stages"][stage] / "artifact.json").is_file()
    assert (finished.output / note["model"]["path"] / "config.json").is_file()
    report = (finished.output / "report.md").read_text()
    for part in ("pruned", "random", "0.attn"):
        assert part in report
    assert list(finished.output.glob("*.png"))
    assert not [path for path in finished.output.rglob("*") if "partial" in path.name or path.name.endswith(".tmp")]
    assert not [path for path in finished.made if path.suffix == ".partial"]
    assert not list(finished.root.rglob("*.pt"))
    assert not list(finished.root.rglob("*.pkl"))


def test_training_did_something(finished: Finished) -> None:
    m = finished.metrics
    assert m["pruned/fvu_mean"] < m["pruned_no_finetune/fvu_mean"]
    assert m["lm/ce"] < math.log(300)


# what can be chosen


@pytest.mark.parametrize(
    "overrides",
    [
        ("sae=vanilla", "sae.expansion=4"),
        ("connectivity=all",),
        ("connectivity=none",),
        ("sites=crosslayer", "sae.expansion=2"),
        ("connectivity.C=0",),
        ("sites=mlp_transcoder", "data.packing=document", "loss=ce"),
        ("connectivity.scope=per_site", "connectivity.weighting=firing", "trainer.accumulate=2"),
    ],
    ids=" ".join,
)
def test_variations_run_to_the_end(finished: Finished, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    short = ("pretrain.steps=4", "finetune.steps=3")
    metrics = execute(variation(finished, tmp_path, *short, *overrides))
    assert metrics
    assert all(math.isfinite(value) for value in metrics.values())
    assert (tmp_path / "out" / "report.md").is_file()
    if overrides[0] == "connectivity=all":
        assert metrics["pruned_no_finetune/ce"] == pytest.approx(metrics["dense/ce"], rel=1e-6)
    if overrides[0] in ("connectivity=none", "connectivity.C=0"):
        assert metrics["connectivity/edges"] == 0
        assert metrics["connectivity/bypass/1.mlp"] == pytest.approx(1.0)
    if overrides[0] == "sites=mlp_transcoder":
        assert not [key for key in metrics if "attn" in key]
        assert "stand in for 2 of the model's 4 modules" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize("loss", ["recon", "e2e"])
def test_every_arm_runs_at_thresholds_of_its_own_pass(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, loss: str
) -> None:
    """Pretrained in the plain pass or in the live model. A pass that a suite was trained in keeps what it learned."""
    from scae.experiment.stages import evaluate as stage
    from scae.experiment.workshop import Workshop

    caplog.set_level(logging.INFO, "scae")
    arms: list[Any] = []
    evaluate = stage.evaluate

    def watched(lm: Any, compared: list[Any], *others: Any) -> dict[str, float]:
        arms.extend(compared)
        return evaluate(lm, compared, *others)

    monkeypatch.setattr(stage, "evaluate", watched)
    changes = ("sae=batchtopk", "sae.expansion=4", "sae.k=4", "pretrain.steps=4", "finetune.steps=3")
    config = variation(finished, tmp_path, *changes, f"loss@pretrain.loss={loss}")
    metrics = execute(config)
    assert all(math.isfinite(value) for value in metrics.values())
    assert {arm.name: arm.suite.threshold_pass for arm in arms} == {arm.name: arm.mode for arm in arms}
    (said,) = [record.getMessage() for record in caplog.records if "another pass" in record.getMessage()]
    foreign = ["plain"] * (loss == "e2e") + ["dense", "pruned_no_finetune", "random_no_finetune"]
    assert f"that of {', '.join(foreign)};" in said
    pruned = next(arm.suite for arm in arms if arm.name == "pruned")
    plan = Plan(config)
    stored = Workshop(config, plan).suite(plan.finetune(plan.pruned).folder)
    for site in stored.sites:
        assert pruned[site].activation.threshold == stored[site].activation.threshold


def test_pretraining_in_the_live_model(finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scae.lm import LanguageModel

    runs: list[int] = []
    splice = LanguageModel.splice

    def counting(self: Any, trace: Any, *args: Any, **options: Any) -> Any:
        runs.append(len(trace.tokens))
        return splice(self, trace, *args, **options)

    monkeypatch.setattr(LanguageModel, "splice", counting)
    overrides = ("loss@pretrain.loss=e2e", "pretrain.steps=3", "stages=[pretrain]")
    config = variation(finished, tmp_path, *overrides)
    execute(config)
    assert Plan(config).pretrain.is_complete
    assert runs.count(config.pretrain.batch_size) == 3  # one more, of other windows, was the check at opening


@pytest.mark.parametrize(
    ("logger", "left"), [("csv", "metrics.csv"), ("tensorboard", "events.out*"), ("wandb", "*.wandb")]
)
def test_loggers(finished: Finished, tmp_path: Path, logger: str, left: str) -> None:
    steps = 1 + ["csv", "tensorboard", "wandb"].index(logger)
    overrides = (f"logger={logger}", "logger.every=1", f"pretrain.steps={steps}", "pretrain.lr=1e-5")
    config = variation(finished, tmp_path, *overrides, "stages=[pretrain]")
    execute(config)
    found = list(Plan(config).pretrain.folder.rglob(left))
    assert found
    assert all(path.stat().st_size for path in found)


@pytest.mark.parametrize("precision", ["bf16-mixed"])
def test_every_precision_that_is_allowed_runs(finished: Finished, tmp_path: Path, precision: str) -> None:
    overrides = (f"trainer.precision={precision}", "pretrain.steps=2", "finetune.steps=2", "stages=[finetune]")
    config = variation(finished, tmp_path, *overrides)
    execute(config)
    assert Plan(config).finetune(Plan(config).pruned).is_complete


def test_the_trained_model_is_an_ordinary_local_one(finished: Finished, tmp_path: Path) -> None:
    plan = Plan(finished.config)
    assert plan.model is not None
    without = [o for o in finished.overrides if not o.startswith(("model.", "experiment="))]
    config = configure(
        *without,
        "model=local",
        f"model.path={plan.model.folder}",
        "data.separator=eos",  # what it was trained on; auto would measure
        "sae.expansion=4",
        f"paths.output={tmp_path / 'out'}",
    )
    metrics = execute(config)
    assert metrics["lm/ce"] == pytest.approx(finished.metrics["lm/ce"], rel=1e-6)
    assert metrics["plain/ce"] == pytest.approx(finished.metrics["plain/ce"], rel=1e-4)
    assert "time/model" not in metrics


def test_a_window_that_is_too_long_for_the_model_is_refused(finished: Finished, tmp_path: Path) -> None:
    plan = Plan(finished.config)
    assert plan.model is not None
    without = [o for o in finished.overrides if not o.startswith(("model.", "experiment=", "data.context"))]
    config = configure(*without, "model=local", f"model.path={plan.model.folder}", "data.context=64")
    with pytest.raises(ConfigError, match=r"data\.context=64.*at most 32"):
        execute(config)


# the command


@pytest.mark.slow
def test_a_sweep_over_c_trains_the_model_and_the_suite_once(finished: Finished, tmp_path: Path) -> None:
    root = tmp_path / "root"
    overrides = [o for o in finished.overrides if not o.startswith("paths.")]
    overrides = [o for o in overrides if not o.startswith("connectivity.C")]
    arguments = ["-m", "connectivity.C=2,8", *overrides, f"paths.artifacts={root}", "hydra.sweep.dir=sweep"]
    done = train(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]

    def count(kind: str) -> int:
        return len([path for path in root.glob(f"{kind}-*") if path.is_dir()])

    assert [count(kind) for kind in ("model", "tokens", "pretrain", "select", "finetune")] == [1, 1, 1, 4, 2]
    assert "Traceback" not in done.stderr
    made = {path: path.stat().st_mtime_ns for path in root.glob("*/artifact.json")}
    forced = train(*arguments, "force=[pretrain]", cwd=tmp_path)
    assert forced.returncode == 0, forced.stderr[-4000:]
    assert forced.stderr.count("pretrain: done in") == 1, "once for both jobs"
    kept = {path.name.split("-")[0] for path in (p.parent for p in made if p.stat().st_mtime_ns == made[p])}
    assert kept == {"model", "tokens"}
    sweep = tmp_path / "sweep"
    for job, C in (("0", 2), ("1", 8)):
        assert json.loads((sweep / job / "metrics.json").read_text())["connectivity/C"] == C
        assert json.loads((sweep / job / "job.json").read_text())["status"] == "completed"
        assert (sweep / job / "report.md").is_file()
    table = (sweep / "sweep.md").read_text()
    assert "pruned" in table
    assert list(sweep.glob("*.png"))

    (sweep / "sweep.md").unlink()
    rebuilt = commands.run("-m", "scae.report", sweep, cwd=tmp_path, environment={"PYTHONPATH": str(ROOT)})
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert (sweep / "sweep.md").read_text() == table


@pytest.mark.slow
def test_two_devices_by_command(finished: Finished, tmp_path: Path) -> None:
    """`trainer=ddp`: the stages that are made together, and those that one process makes for both."""
    root = tmp_path / "root"
    copied_model(finished, root)
    overrides = [o for o in finished.overrides if not o.startswith("paths.")]
    two = ("trainer=ddp", "trainer.accelerator=cpu", "pretrain.loss.recon.kind=mse", "loss.recon.kind=mse")
    overrides = [*[o for o in overrides if o != "trainer=cpu"], *two]
    done = train(*overrides, f"paths.artifacts={root}", "hydra.run.dir=out", cwd=tmp_path)
    told = [line for line in done.stderr.splitlines() if "Error" in line]
    assert done.returncode == 0, "\n".join([*told, done.stderr[-2000:]])
    two_devices = json.loads((tmp_path / "out" / "metrics.json").read_text())
    one = execute(variation(finished, tmp_path, "pretrain.loss.recon.kind=mse", "loss.recon.kind=mse"))
    for key in ("plain/ce", "pruned/ce", "pruned/fvu_mean", "plain/fvu_mean"):
        assert two_devices[key] == pytest.approx(one[key], rel=1e-3), key
