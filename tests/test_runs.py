"""A finished run in a notebook: open it, run a pass, read a feature's connections."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from test_experiment import Finished, execute, finish, variation

from scae.data import heldout_batches, train_and_heldout
from scae.evaluation import Arm, evaluate
from scae.experiment.opened import load_suite
from scae.sites import Site
from scae.training import moved_share

TEXT = "ban kolo ris tame ba"


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(tmp_path_factory)


@pytest.fixture(scope="module")
def opened(run: Finished) -> Any:
    return load_suite(run.output)


def test_the_example_of_the_readme(run: Finished, opened: Any) -> None:
    import scae

    assert scae.load_suite is load_suite
    suite, lm = opened
    assert not suite.training
    trace = lm.trace(TEXT)
    out = suite(trace, mode="pruned")
    assert out.residual().shape == trace.embed.shape
    assert set(map(str, out.codes)) == {"0.attn", "0.mlp", "1.attn", "1.mlp"}
    assert set(out.reconstructions) == set(out.codes)
    assert torch.isfinite(out.residual()).all()
    inputs = suite.connections.inputs(site="1.mlp", feature=3)
    assert 0 < len(inputs) <= run.config.connectivity.C * run.config.connectivity.spread
    sizes = [abs(one.weight) for one in inputs]
    assert sizes == sorted(sizes, reverse=True)


def test_connections_that_moved_are_those_that_are_evaluated_and_opened(run: Finished, tmp_path: Path) -> None:
    regrow = ("finetune.regrow.every=2", "finetune.regrow.share=0.5")
    config = variation(run, tmp_path, "connectivity.budget=by_score", *regrow)
    metrics = execute(config)
    output = Path(config.paths.output)
    (moved, lm), (selected, _) = (load_suite(output, finetuned=finetuned) for finetuned in (True, False))
    chosen, kept = selected.connections.edge_list, moved.connections.edge_list
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
    seen = set()
    for site in (Site.parse("1.mlp"), Site.parse("1.attn")):
        for feature in range(suite.layout.size(site)):
            for up, number, weight in suite.connections.inputs(site=str(site), feature=feature):
                E = suite[site].W_enc[feature].detach() / suite[site].reads.scale
                D = suite[up].W_dec[number].detach() * suite[up].writes.scale
                if site.kind == "attn":
                    D = sum(D @ paths.W_V[1, h] @ paths.W_O[1, h] for h in range(paths.W_O.shape[1]))
                assert weight == pytest.approx(float(E @ D), rel=1e-4, abs=1e-6)
                assert up < site
                seen.add((site.kind, up))
    assert len(seen) > 3


def test_the_connections_are_those_that_were_selected(run: Finished, opened: Any) -> None:
    suite, _ = opened
    edges = suite.connections.edge_list
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
