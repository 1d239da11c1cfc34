"""A finished run in a notebook: open it, run a pass, read a feature's connections."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from experiments import ROOT, Finished, execute, finish, variation
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from scae.data import heldout_batches, train_and_heldout
from scae.evaluation import Arm, evaluate
from scae.experiment.opened import Run, load_suite, open_run
from scae.sites import Site
from scae.training import moved_share

TEXT = "ban kolo ris tame ba"


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(tmp_path_factory)


def record(folder: Path, run: Finished, *changes: str, cwd: Path) -> None:
    """What Hydra leaves in the directory of a run: the configuration before anything in it is resolved."""
    overrides = [part for part in run.overrides if not part.startswith("paths.output")]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("train", overrides=[*overrides, "evaluation.twins=true", *changes])
    (folder / ".hydra").mkdir(exist_ok=True)
    OmegaConf.save(composed, folder / ".hydra" / "config.yaml")
    OmegaConf.save({"hydra": {"runtime": {"cwd": str(cwd)}}}, folder / ".hydra" / "hydra.yaml")


@pytest.fixture
def moved(run: Finished, tmp_path: Path) -> Path:
    """The directory of the run in another place, its artifacts where they were."""
    note = json.loads((run.output / "run.json").read_text())
    note["model"]["path"] = str(run.output / note["model"]["path"])
    note["stages"] = {stage: str(run.output / path) for stage, path in note["stages"].items()}
    (tmp_path / "run.json").write_text(json.dumps(note))
    return tmp_path


@pytest.fixture(scope="module")
def opened(run: Finished) -> Any:
    return load_suite(run.output)


def test_the_example_of_the_readme(run: Finished, opened: Any) -> None:
    import scae

    assert (scae.load_suite, scae.open_run, scae.Run) == (load_suite, open_run, Run)
    suite, lm = opened
    assert not suite.training
    trace = lm.trace(TEXT)
    out = suite(trace, mode="pruned")
    assert out.residual().shape == trace.embed.shape
    assert set(map(str, out.codes)) == {"0.attn", "0.mlp", "1.attn", "1.mlp"}
    assert set(out.reconstructions) == set(out.codes)
    assert torch.isfinite(out.residual()).all()
    inputs = suite.inputs(site="1.mlp", feature=3)
    assert 0 < len(inputs) <= run.config.connectivity.C * run.config.connectivity.spread
    sizes = [abs(one.weight) for one in inputs]
    assert sizes == sorted(sizes, reverse=True)


def test_connections_that_moved_are_those_that_are_evaluated_and_opened(run: Finished, tmp_path: Path) -> None:
    regrow = ("finetune.regrow.every=2", "finetune.regrow.share=0.5")
    config = variation(run, tmp_path, "connectivity.budget=by_score", *regrow)
    metrics = execute(config)
    output = Path(config.paths.output)
    (moved, lm), (selected, _) = (load_suite(output, finetuned=finetuned) for finetuned in (True, False))
    chosen, kept = selected.connections, moved.connections
    assert metrics["connectivity/regrown"] == moved_share(chosen, kept) > 0
    assert metrics["connectivity/edges"] == len(chosen) == len(kept)
    _, heldout = train_and_heldout(config.data, lm.tokenizer, Path(config.paths.artifacts))
    batches = heldout_batches(heldout, tokens=config.evaluation.tokens, batch_size=config.evaluation.batch_size)
    traces = [lm.trace(batch.tokens, batch.live) for batch in batches]
    arms = [Arm("pruned", moved, "pruned"), Arm("pruned_no_finetune", selected, "pruned")]
    again = evaluate(lm, arms, lambda: traces)
    assert {key: metrics[key] for key in again} == again


def test_weights_of_the_inputs_are_products_of_rows(opened: Any) -> None:
    """The embedded model is RMSNorm without a bias: nothing is centred. Attention: through W_V W_O of every head."""
    suite, lm = opened
    paths = lm.paths
    order, seen = paths.modules, set()
    for site in (Site.parse("1.mlp"), Site.parse("1.attn")):
        for feature in range(suite.layout.size(site)):
            for up, number, weight in suite.inputs(site=str(site), feature=feature):
                E = suite[site].encoder.W[feature].detach() / suite[site].reads.scale
                D = suite[up].decoder.W[number].detach() * suite[up].writes.scale
                if site.kind == "attn":
                    D = sum(D @ paths.W_V[1, h] @ paths.W_O[1, h] for h in range(paths.W_O.shape[1]))
                assert weight == pytest.approx(float(E @ D), rel=1e-4, abs=1e-6)
                assert order.index(up.module) < order.index(site.module)
                seen.add((site.kind, up))
    assert len(seen) > 3


def test_the_connections_are_those_that_were_selected(run: Finished, opened: Any) -> None:
    suite, _ = opened
    edges = suite.connections
    assert len(edges) == run.metrics["connectivity/edges"]
    assert not edges.is_complete


def heldout(run: Finished, lm: Any) -> Any:
    _, windows = train_and_heldout(run.config.data, lm.tokenizer, run.root)
    evaluation = run.config.evaluation

    def traces() -> Any:
        for batch in heldout_batches(windows, tokens=evaluation.tokens, batch_size=evaluation.batch_size):
            yield lm.trace(batch.tokens, batch.live)

    return traces


@pytest.mark.parametrize(("finetuned", "arm"), [(True, "pruned"), (False, "pruned_no_finetune")])
def test_it_is_the_suite_that_was_evaluated(run: Finished, finetuned: bool, arm: str) -> None:
    suite, lm = load_suite(str(run.output), finetuned=finetuned)
    metrics = evaluate(lm, [Arm(arm, suite, "pruned")], heldout(run, lm))
    for key in (f"{arm}/ce", f"{arm}/kl", f"{arm}/fvu_mean", f"{arm}/fvu/1.mlp", f"{arm}/l0/0.attn", "lm/ce"):
        assert metrics[key] == pytest.approx(run.metrics[key], rel=1e-6), key


def test_run_and_artifacts_can_move_together(
    run: Finished, opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run.folder, tmp_path / "moved", ignore=shutil.ignore_patterns("*.lock", "evaluate-*"))
    monkeypatch.chdir(tmp_path)
    suite, lm = load_suite("moved/run")
    ours, theirs = (s(m.trace(TEXT), mode="pruned").residual() for s, m in ((suite, lm), opened))
    assert torch.equal(ours, theirs)


def test_a_folder_that_is_no_run(run: Finished, tmp_path: Path) -> None:
    for wrong in (tmp_path / "nowhere", tmp_path, run.root):
        with pytest.raises(ValueError, match=r"no finished run.*run\.json"):
            load_suite(wrong)


def test_a_run_whose_artifacts_are_gone(run: Finished, tmp_path: Path) -> None:
    note = json.loads((run.output / "run.json").read_text())
    note["model"]["path"] = str(run.output / note["model"]["path"])
    note["stages"] = {stage: f"gone/{stage}" for stage in note["stages"]}
    (tmp_path / "run.json").write_text(json.dumps(note))
    with pytest.raises(ValueError, match=r"gone/finetune"):
        load_suite(tmp_path)


# the handle


def test_a_run_is_opened_with_everything_that_it_measured_with(run: Finished) -> None:
    """The same configuration, and on the same text the same numbers, to the bit."""
    record(run.output, run, cwd=ROOT)
    one = open_run(run.output)
    assert one.config == run.config
    assert one.metrics == run.metrics
    arms = [Arm("pruned", one.suite, "pruned"), Arm("pruned_no_finetune", one.pretrained, "pruned")]
    again = evaluate(one.lm, arms, one.heldout)
    assert {key: run.metrics[key] for key in again} == again
    train, heldout = one.windows
    assert len(train) > len(heldout) > 0
    assert one.suite is one.suite
    assert one.suite.lm is one.pretrained.lm is one.lm


def test_nothing_is_read_before_it_is_asked_for(moved: Path) -> None:
    """So whatever is there can be looked at, and an error names what is not."""
    (moved / "run.json").write_text(json.dumps({"model": {"path": "gone/model"}, "stages": {"select": "gone/select"}}))
    one = Run(moved)
    for name, missing in (("config", r"\.hydra/config\.yaml"), ("metrics", r"metrics\.json"), ("lm", "gone/model")):
        with pytest.raises(ValueError, match=missing):
            getattr(one, name)


def test_places_are_those_seen_from_where_the_command_ran(
    run: Finished, moved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(moved, run, "data.path=text.jsonl", "paths.artifacts=artifacts", cwd=run.folder)
    monkeypatch.chdir(moved)
    one = Run(moved)
    assert one.config.data.path == str(run.folder / "text.jsonl")  # type: ignore[union-attr]
    assert one.config.paths.artifacts == str(run.root)
    assert one.config.paths.output == str(moved)
    assert [len(side) for side in one.windows] == [len(side) for side in open_run(run.output).windows]


def test_text_that_is_gone_is_named_where_windows_are_asked_for(run: Finished, moved: Path) -> None:
    record(moved, run, "data.path=gone.jsonl", cwd=moved)
    one = Run(moved)
    assert one.suite.sites
    assert one.config.data.path == str(moved / "gone.jsonl")  # type: ignore[union-attr]
    for ask in (lambda: one.windows, lambda: next(one.heldout())):
        with pytest.raises(ValueError, match=r"text that its windows were cut from .*gone\.jsonl: no such file"):
            ask()


def test_a_configuration_of_another_version_is_named_by_its_key(run: Finished, moved: Path) -> None:
    record(moved, run, "+sae.later=1", cwd=moved)
    with pytest.raises(ValueError, match=r"a configuration that this version cannot read: sae\.topk\.later"):
        _ = Run(moved).config
