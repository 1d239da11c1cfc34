"""The report of one run says what metrics.json says, and nothing that is not there."""

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from scae.report import ReportError, tables, write_run
from scae.report.arms import present
from scae.report.arms_grid import sites
from scae.report.files import natural

Put = Callable[..., Path]
Make = Callable[..., dict[str, float]]


def rendered(*tables: object) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(*tables)
    return console.export_text()


def line_of(text: str, label: str) -> str:
    """The first row of a table, on a page or a terminal, that starts so."""
    return next(line for line in text.replace("*", "").splitlines() if line.strip("| ").startswith(label))


def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


def test_table_holds_the_numbers(metrics: dict[str, float]) -> None:
    row = line_of(rendered(*tables(metrics)), "pruned ").split()
    fvu_mean, fvu_max = metrics["pruned/fvu_mean"], metrics["pruned/fvu_max"]
    expected = ["1.980", "+0.350", "95.5", "0.315", "82.5", f"{fvu_mean:.3f}", f"{fvu_max:.3f}", "32.0", "2.0", "60.2"]
    assert row[1:] == expected


def test_rows_are_the_arms_in_order_then_the_references_best_first(metrics: dict[str, float]) -> None:
    text = rendered(*tables(metrics))
    labels = ["model", *(arm.label for arm in present(metrics)), "unigram", "mean ablation", "zero ablation"]
    lines = text.splitlines()
    places = [lines.index(line_of(text, f"{label} ")) for label in labels]
    assert places == sorted(places)
    assert line_of(text, "zero ablation").split()[2:5] == ["9.420", "+7.790", "0.0"]


def test_without_twins_neither_their_rows_nor_their_column(make: Make) -> None:
    with_twins, without = rendered(*tables(make())), rendered(*tables(make(twins=False)))
    assert "conn." in with_twins
    assert "conn." not in without
    assert "no connections" in with_twins
    assert "no connections" not in without


def test_the_distance_from_the_ceiling_is_told_where_the_dense_twin_ran(tmp_path: Path, put: Put, make: Make) -> None:
    metrics = make()
    page = write_run(put(tmp_path / "run", metrics)).read_text()
    fvu = metrics["pruned/fvu_mean"] - metrics["dense_finetuned/fvu_mean"]
    assert f"the pruned suite has +0.130 nats of cross-entropy and {fvu:+.3f} of mean FVU." in page
    assert "ceiling" not in write_run(put(tmp_path / "alone", make(twins=False))).read_text()


def test_one_missing_number_is_a_dash_and_not_a_crash(metrics: dict[str, float]) -> None:
    del metrics["pruned/kl"]
    assert line_of(rendered(*tables(metrics)), "pruned ").split()[4] == "-"


def test_sites_are_in_the_order_of_a_forward_pass() -> None:
    keys = {f"plain/fvu/{site}": 0.5 for site in ("10.attn", "2.mlp", "2.attn", "0.mlp")}
    assert sites(keys, "fvu") == ("0.mlp", "2.attn", "2.mlp", "10.attn")


def test_the_page_and_the_terminal_agree(tmp_path: Path, put: Put, metrics: dict[str, float]) -> None:
    page = write_run(put(tmp_path / "run", metrics, ["sae=topk"])).read_text()
    for arm in present(metrics):
        on_page = line_of(page, f"{arm.label} |").strip("| ").split(" | ")
        in_terminal = line_of(rendered(*tables(metrics)), f"{arm.label} ").split()[-10:]
        assert on_page == [arm.label, *in_terminal]
        assert arm.meaning in page


def test_the_page_has_the_pruned_row_the_connections_and_the_places(
    tmp_path: Path, put: Put, metrics: dict[str, float]
) -> None:
    (tmp_path / "artifacts" / "pretrain-abc").mkdir(parents=True)
    page = write_run(put(tmp_path / "run", metrics, ["sae=topk"])).read_text()
    assert "| **pruned** | **1.980** | **+0.350** |" in page
    assert "| in degree mean | 57.25 |" in page
    assert "| 1.attn | 50.0 % | 50.0 % | - |" in page
    assert "[pretrain-abc](../artifacts/pretrain-abc)\n" in page
    assert "| pretrain | 1 min 33 s | 2,048,000 | 21,974 |" in page
    assert "`sae=topk`" in page


def test_a_missing_artifact_is_named_as_missing(tmp_path: Path, put: Put, metrics: dict[str, float]) -> None:
    page = write_run(put(tmp_path / "run", metrics)).read_text()
    assert "[pretrain-abc](../artifacts/pretrain-abc) (no longer there)" in page


def test_the_figure_grows_with_the_sites(tmp_path: Path, put: Put, make: Make) -> None:
    few = put(tmp_path / "few", make())
    many = put(tmp_path / "many", make() | {f"plain/fvu/{layer}.mlp": 0.3 for layer in range(4, 16)})
    for run in (few, many):
        write_run(run)
    assert png_size(few / "fvu.png") == (1245, 690)
    assert png_size(many / "fvu.png") == (2235, 690)
    assert (few / "fvu.png").stat().st_size > 20_000


def test_rewriting_follows_the_files_and_leaves_no_temporary(tmp_path: Path, put: Put, make: Make) -> None:
    run = put(tmp_path / "run", make())
    write_run(run)
    (run / "metrics.json").write_text(json.dumps(make() | {"pruned/ce": 1.789}))
    assert "**1.789**" in write_run(run).read_text()
    assert sorted(path.name for path in run.iterdir()) == [
        "fvu.png",
        "job.json",
        "metrics.json",
        "pages",
        "report.html",
        "report.md",
        "run.json",
    ]


def test_metrics_alone_are_enough(tmp_path: Path, metrics: dict[str, float]) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    assert "**1.980**" in write_run(tmp_path).read_text()


def test_a_run_without_metrics_says_why(tmp_path: Path, put: Put) -> None:
    run = put(tmp_path / "run", None, status="failed", error="ValueError: no text\nTraceback")
    with pytest.raises(ReportError, match=r"no metrics.*failed; ValueError: no text\)$"):
        write_run(run)


def test_sites_stand_in_the_order_of_the_model() -> None:
    in_order = ["embed", "0.attn", "0.mlp", "2.mlp", "10.attn", "unembed"]
    assert sorted(reversed(in_order), key=natural) == in_order
