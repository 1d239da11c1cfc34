"""The benchmarks compute what they say, and run; nothing here is timed."""

import itertools
import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:  # benchmarks are not installed
    sys.path.insert(0, str(ROOT))

from benchmarks import __main__ as command  # noqa: E402
from benchmarks import pruned, scaling, waiting, worker  # noqa: E402
from benchmarks.dense_reference import dense_masks, dense_pass, sum_of_fvu  # noqa: E402
from benchmarks.measure import interleaved, peak_bytes  # noqa: E402
from benchmarks.synthetic import Sizes, SyntheticModel, connect, make_suite  # noqa: E402
from scae.connections import Connections  # noqa: E402
from scae.objectives import Objective  # noqa: E402
from scae.objectives.terms import Recon  # noqa: E402
from scae.suite import Suite  # noqa: E402

TINY = Sizes(layers=2, d_model=16, heads=2, features=24, k=5, C=6, windows=2, context=8)
KEYS = {"name", "ratio", "ratio_is", "ours_s", "baseline_s", "ours_bytes", "baseline_bytes", "sizes", "goal"}


def both_ways(suite: Suite, trace: Any) -> None:
    """The pruned pass and the dense reference agree: outputs, loss, and the gradient of every parameter."""
    objective = Objective([Recon(weight=1.0, kind="fvu", knee=4.0)])
    out = suite(trace, mode="pruned")
    value = objective(out, trace, suite.lm.paths).total
    theirs = dense_pass(suite, dense_masks(suite.connections, suite.lm.device), trace)
    assert theirs.keys() == out.reconstructions.keys()
    for site, output in theirs.items():
        ours = out.reconstructions[site]
        torch.testing.assert_close(ours, output, rtol=1e-9, atol=1e-10, msg=lambda m, s=site: f"{s}: {m}")
    loss = sum_of_fvu(theirs, trace)
    torch.testing.assert_close(value, loss, rtol=1e-10, atol=0)
    gradients = []
    for one in (value, loss):
        suite.zero_grad()
        one.backward()
        gradients.append({name: parameter.grad for name, parameter in suite.named_parameters()})
    for name, gradient in gradients[1].items():
        assert gradient is not None, name
        assert gradient.abs().max() > 0, f"{name} has no gradient: nothing is compared"
        torch.testing.assert_close(
            gradients[0][name], gradient, rtol=1e-8, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_the_dense_reference_is_the_pruned_pass(
    tiny: SimpleNamespace, trace: Any, make_suite: Callable[..., Suite], ragged: Callable[..., Connections]
) -> None:
    """On models that ran: sequential LayerNorm, parallel, RMSNorm with grouped-query attention; with padding."""
    suite = make_suite(tiny.lm)
    suite.connect(ragged(suite.layout))
    both_ways(suite, trace)


@pytest.mark.parametrize("kv_heads", [None, 1], ids=["heads", "grouped"])
@pytest.mark.parametrize("centred", [True, False], ids=["centred", "not"])
@pytest.mark.parametrize("parallel", [True, False], ids=["parallel", "sequential"])
@pytest.mark.parametrize("method", ["contribution", "random"])
def test_the_dense_reference_is_the_pruned_pass_on_synthetic_models(
    parallel: bool, centred: bool, kv_heads: int | None, method: str
) -> None:
    sizes = replace(TINY, parallel=parallel, centred=centred, kv_heads=kv_heads)
    model = SyntheticModel(sizes, dtype=torch.float64)
    suite = make_suite(model, dtype=torch.float64)
    connect(suite, sizes, method)
    assert 0 < len(suite.connections) < len(Connections.complete(suite.layout))
    both_ways(suite, model.draw(seed=0))


def test_the_dense_reference_where_modules_have_no_dictionary(
    tiny: SimpleNamespace,
    trace: Any,
    make_suite: Callable[..., Suite],
    ragged: Callable[..., Connections],
    all_sites: Callable[..., Any],
) -> None:
    sites = [site for site in all_sites(tiny.lm) if str(site) not in ("0.attn", "1.mlp")]
    suite = make_suite(tiny.lm, sites=sites)
    suite.connect(ragged(suite.layout))
    both_ways(suite, trace)


def test_the_synthetic_suite_is_of_sensible_size() -> None:
    model = SyntheticModel(TINY)
    suite = make_suite(model)
    connect(suite, TINY, "contribution")
    trace = model.draw(seed=0)
    assert not trace.live[:, 0].any()
    assert trace.live[:, 1:].all()
    for mode in ("plain", "pruned"):
        out = suite(trace, mode=mode)
        for site, code in out.codes.items():
            active = len(code.value) / trace.n_live
            assert 0.8 * TINY.k <= active <= TINY.k, (mode, site)
            size = out.outputs[site.module][trace.live].norm() / trace.outputs[site.module][trace.live].norm()
            assert 0.2 < size.item() < 5, (mode, site)
    assert all((bias != 0).all() for name, bias in suite.named_parameters() if ".b_" in name)
    assert torch.equal(model.draw(seed=0).embed, SyntheticModel(TINY).draw(seed=0).embed)
    assert not torch.equal(model.draw(seed=0).embed, model.draw(seed=1).embed)


def test_contestants_take_turns() -> None:
    calls: list[str] = []

    def contestant(name: str) -> Callable[[], int]:
        def run() -> int:
            calls.append(name)
            return len(calls)

        return run

    samples = interleaved({"a": contestant("a"), "b": contestant("b")}, device="cpu", rounds=3)
    assert calls == ["a", "b"] * 4
    assert [len(samples[name].seconds) for name in "ab"] == [3, 3]
    assert [samples[name].first for name in "ab"] == [1, 2]
    calls.clear()
    once = interleaved({"a": contestant("a")}, device="cpu", rounds=3, patience_s=-1.0)
    assert calls == ["a"], "a run beyond all patience was repeated"
    assert len(once["a"].seconds) == 1


def test_the_peak_is_above_the_level_before() -> None:
    held = [torch.ones(8 << 20)]  # 32 MB that are there already

    def step() -> None:
        held.append(torch.ones(16 << 20))  # 64 MB
        held.pop()

    for _ in range(2):
        assert 60e6 < peak_bytes(step, "cpu") < 100e6


def test_the_slope() -> None:
    assert scaling.slope([1, 2, 4, 8], [3, 6, 12, 24]) == pytest.approx(1.0)
    assert scaling.slope([1, 2, 4], [1, 4, 16]) == pytest.approx(2.0)


SMALLER: dict[str, dict[str, Any]] = {
    "pruned": {"sizes": TINY},
    "plain": {"sizes": TINY, "counts": (2, 6), "method": "random"},
    "sae": {"shape": {"tokens": 32, "d_model": 8, "k": 2}, "features": (16, 32)},
    "memory": {"sizes": TINY, "batches": 2, "vocab": 600},
    "scaling": {"base": TINY, "axes": {"features": (12, 24), "C": (2, 6), "windows": (1, 2), "layers": (1, 2)}},
}


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON file, which has everything that it must have."""
    note = json.loads(path.read_text())
    assert note["machine"]["torch"] == torch.__version__
    assert note["machine"]["cores"] > 0
    assert note["date"].startswith("20")
    assert note["rows"]
    for row in note["rows"]:
        assert row.keys() >= KEYS
        assert row["sizes"]
        for key in ("ratio", "ours_s", "baseline_s"):
            assert math.isfinite(row[key]), (row["name"], key)
        assert row["ours_s"] > 0
        assert row["baseline_s"] > 0
    return note["rows"]


@pytest.mark.parametrize("name", SMALLER)
def test_a_command_writes_its_rows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The memory is made up here; how it is measured has a test of its own."""
    peaks = itertools.count(1)
    module = import_module(f"benchmarks.{name}")
    monkeypatch.setattr(module, "peaks", lambda cases, device: [next(peaks) for _ in cases])
    assert command.main([name, "--quick", "--json", str(tmp_path / "rows.json")], **SMALLER[name]) == 0
    rows = rows_of(tmp_path / "rows.json")
    printed = capsys.readouterr().out
    assert rows[0]["ratio_is"] in printed
    for row in rows:
        assert row["name"] in printed
    memory = [row[key] for row in rows for key in ("ours_bytes", "baseline_bytes")]
    if name == "scaling":
        assert [row["name"] for row in rows] == ["features", "C", "tokens", "layers"]
        assert all(math.isfinite(row["memory_slope"]) and len(row["points"]) == 2 for row in rows)
    else:
        assert memory == list(range(1, len(memory) + 1)), "the memory of one case stands in the row of another"
    if name == "pruned":
        assert [row["name"] for row in rows] == ["chosen connections"]
        assert all(row["loss_difference"] < 1e-5 for row in rows)


def test_the_database_of_a_large_text_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here in this process, its memory made up; every file is written and looked at."""
    from benchmarks import analysis

    def here(cases: list[worker.Case], device: str) -> list[dict[str, Any]]:
        for case in cases:
            case.make()()
        return [{"bytes": 7 * 2**20}]

    monkeypatch.setattr(analysis, "measured", here)
    monkeypatch.setattr(analysis, "PART", 90)
    sizes = analysis.Sizes(tokens=200, sites=2, features=30, k=4)
    assert command.main(["analysis", "--quick", "--json", str(tmp_path / "rows.json")], sizes=sizes) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["write, one site", "look, one site", "all 2 sites"]
    assert all(row["ours_s"] > 0 and row["ours_bytes"] == 7 * 2**20 for row in rows)
    entries_at_most, pointers = 200 * 4 * 2, 2 * (201 + 31) * 8
    assert pointers < rows[2]["disk_bytes"] <= entries_at_most * 16 + pointers + 2 * 1000
    assert rows[2]["disk_bytes"] > 200 * 2 * 16


def test_waiting_takes_turns_in_processes_of_either_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long they take is made up here."""
    asked: list[str | None] = []

    def measured(cases: Any, *, environment: dict[str, str | None], **given: Any) -> list[dict[str, Any]]:
        asked.append(environment["OMP_WAIT_POLICY"])
        return [{"seconds": [1.0 if asked[-1] else 3.0]} for _ in cases]

    monkeypatch.setattr(waiting, "measured", measured)
    alone, beside = waiting.run(quick=True, device="cpu", turns=2)
    assert asked == ["PASSIVE", None] * 4
    assert (alone.name, alone.ratio, beside.ratio) == ("alone", 3.0, 3.0)
    assert beside.sizes["busy"] > alone.sizes["busy"] == 0


@pytest.mark.slow
def test_memory_is_measured_in_processes_of_their_own() -> None:
    shape = {"tokens": 256, "d_model": 32, "k": 4, "device": "cpu"}
    suite = {"sizes": TINY.plain(), "connections": "random", "device": "cpu"}
    cases = [
        worker.Case("dictionary_steps.encoder_product", shape | {"features": 2048}),
        worker.Case("dictionary_steps.encoder_product", shape | {"features": 8192}),
        worker.Case("dictionary_steps.dictionary_step", shape | {"features": 2048, "upkeep": True}, rounds=2),
        worker.Case("suite_steps.suite_step", suite | {"mode": "pruned"}),
        worker.Case("suite_steps.dense_step", suite, warm=False),
    ]
    small, large, step, ours, dense = worker.measured(cases, device="cpu")
    assert small["bytes"] == pytest.approx(256 * 2048 * 4, rel=0.2)
    assert large["bytes"] == pytest.approx(256 * 8192 * 4, rel=0.2)
    assert step["bytes"] > 2 * 2048 * 32 * 4, "the gradients of two matrices are not in it"
    assert len(step["seconds"]) == 2
    assert all(one["bytes"] >= 0 for one in (ours, dense))


def test_losses_agree_in_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the sizes of --quick."""
    monkeypatch.setattr(pruned, "peaks", lambda cases, device: [1] * len(cases))
    rows = pruned.run(quick=True, device="cpu")
    for row in rows:
        assert row.extra["ours_loss"] == pytest.approx(row.extra["baseline_loss"], rel=1e-5)
    assert not pruned.disagreements(rows)


@pytest.mark.parametrize("off", [1e-4, math.nan])
def test_programs_that_disagree_are_not_compared(
    off: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import suite_steps

    monkeypatch.setattr(pruned, "peaks", lambda cases, device: [1] * len(cases))
    monkeypatch.setattr(suite_steps, "sum_of_fvu", lambda *args: sum_of_fvu(*args) * (1 + off))
    assert command.main(["pruned", "--quick", "--json", str(tmp_path / "rows.json")], sizes=TINY) == 1
    assert "differ by" in capsys.readouterr().err
    assert not (tmp_path / "rows.json").exists()


def test_a_package_that_cannot_run_says_so_in_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This environment has none of them."""
    from benchmarks import sae

    monkeypatch.setattr(sae, "peaks", lambda cases, device: [1] * len(cases))
    monkeypatch.setattr(sae, "PEERS", ("sparsify",))
    monkeypatch.setattr(sae, "_ours", lambda shape, features, device: {"steps": [{"seconds": [1.0], "bytes": 1}] * 2})
    assert (
        command.main(
            ["sae", "--quick", "--peers", sys.executable, "--json", str(tmp_path / "rows.json")], **SMALLER["sae"]
        )
        == 0
    )
    *ours, first, second = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert len(ours) == 2
    for row in (first, second):
        assert row["ratio"] is None
        assert row["baseline_s"] is None
        assert "eai-sparsify" in row["reason"]
        assert "skipped" in row["name"]


def test_a_case_that_fails_is_named() -> None:
    values = {"tokens": 4, "d_model": 2, "features": -1, "k": 1, "device": "cpu"}
    with pytest.raises(RuntimeError, match=r"encoder_product.*its process ended"):
        worker.measured([worker.Case("dictionary_steps.encoder_product", values)], device="cpu")


@pytest.mark.slow
def test_a_store_is_written_and_its_steps_are_compared(tmp_path: Path) -> None:
    overrides = ("data.max_tokens=20000", "model.steps=4", "pretrain.steps=4")
    target = tmp_path / "rows.json"
    assert command.main(["store", "--quick", "--json", str(target)], overrides=overrides) == 0
    rows = rows_of(target)
    assert [row["name"] for row in rows] == ["step, float32", "write, float32", "step, bfloat16", "write, bfloat16"]
    single, half = rows[0]["bytes_a_token"], rows[2]["bytes_a_token"]
    assert single - 12 == 2 * (half - 12)
    for step, writing in zip(rows[::2], rows[1::2], strict=True):
        saved = step["baseline_s"] - step["ours_s"]
        assert (writing["pays_after"] is None) == (saved <= 0)


@pytest.mark.slow
def test_the_whole_experiment_is_taken_apart(tmp_path: Path) -> None:
    overrides = ("data.max_tokens=40000", "model.steps=4", "pretrain.steps=4", "finetune.steps=4")
    target = tmp_path / "rows.json"
    assert command.main(["end_to_end", "--quick", "--json", str(target)], overrides=overrides, steps=2) == 0
    rows = rows_of(target)
    names = [row["name"] for row in rows]
    assert {"model", "pretrain", "select", "finetune", "evaluate", "the rest"} < set(names)
    for stage in ("pretrain", "finetune"):
        parts = [row for row in rows if row["name"].startswith(f"{stage} step")]
        assert len(parts) == 3
        assert sum(row["ratio"] for row in parts) == pytest.approx(1.0)
    command_rows = [row for row in rows if "command" in row["ratio_is"]]
    assert sum(row["ratio"] for row in command_rows) == pytest.approx(1.0)
    assert all(row["baseline_bytes"] > 1e7 for row in command_rows)
