"""Training curves: which points there are, which lines are drawn, and that a report keeps them."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scae.report import write_run
from scae.report.curves_figure import curves_figure, drawn
from scae.report.history import Curves, read_lines

Put = Callable[..., Path]
ROWS: list[dict[str, Any]] = [
    {"step": 4, "train/loss": 3.0, "train/recon": 2.5, "train/logit_kl": 0.5},
    {"step": 9, "train/loss": 2.0, "train/recon": 1.7, "train/logit_kl": 0.3, "valid/loss": 2.2, "train/dead": 0.1},
    {"step": 14, "train/loss": 1.5, "train/recon": 1.4, "train/logit_kl": 0.1, "valid/loss": 2.2, "train/dead": 0.2},
    {"step": 19, "train/loss": 1.0, "train/recon": 0.9, "train/logit_kl": 0.1, "valid/loss": 1.2, "train/dead": 0.2},
]


def write(folder: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    (folder / "logs").mkdir(parents=True)
    with (folder / "logs" / "metrics.csv").open("w", newline="") as file:
        lines = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        lines.writeheader()
        lines.writerows(rows)
    return folder / "logs" / "metrics.csv"


def test_a_line_has_a_point_where_it_was_measured(tmp_path: Path) -> None:
    lines = read_lines(write(tmp_path))
    assert "step" not in lines
    assert lines["train/loss"] == ((5, 3.0), (10, 2.0), (15, 1.5), (20, 1.0))
    assert lines["train/dead"] == ((10, 0.1), (15, 0.2), (20, 0.2))
    assert lines["valid/loss"] == ((10, 2.2), (20, 1.2)), "what a row repeats is no validation"


def test_a_file_that_a_killed_fit_has_left_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    file = write(tmp_path)
    file.write_text(file.read_text() + "24,nan,inf,0.4\n29,0.")
    lines = read_lines(file)
    assert lines["train/loss"][-1] == (30, 0.0)
    assert lines["train/recon"][-1] == (20, 0.9)
    assert lines["train/logit_kl"][-1] == (25, 0.4)
    assert read_lines(tmp_path / "none.csv") == {}


def test_the_only_term_is_the_loss(tmp_path: Path) -> None:
    lines = read_lines(write(tmp_path))
    found = [(whose, term) for whose, term, _ in drawn(Curves("finetune", lines))]
    assert found == [("train", "loss"), ("valid", "loss"), ("train", "recon"), ("train", "logit_kl")]
    one = {name: points for name, points in lines.items() if name != "train/logit_kl"}
    assert [line[:2] for line in drawn(Curves("pretrain", one))] == [("train", "loss"), ("valid", "loss")]


def test_the_figure_has_a_row_a_stage(tmp_path: Path) -> None:
    lines = read_lines(write(tmp_path))
    heights = []
    for number in (1, 2):
        path = curves_figure([Curves("pretrain", lines)] * number, tmp_path / f"{number}.png")
        assert path is not None
        heights.append(int.from_bytes(path.read_bytes()[20:24]))
        assert path.stat().st_size > 20_000
    assert heights[1] == 2 * heights[0]
    assert curves_figure([Curves("pretrain", {"train/grad": ((1.0, 2.0),)})], tmp_path / "no.png") is None
    assert not (tmp_path / "no.png").exists()


@pytest.mark.parametrize("there", [True, False])
def test_a_report_shows_them_also_when_the_artifact_is_gone(
    tmp_path: Path, put: Put, metrics: dict[str, float], there: bool
) -> None:
    shares = {f"features/pretrain/{what}/{site}": share for what, site, share in (
        ("never_fired", "0.attn", 0.1), ("never_fired", "0.mlp", 0.2), ("dead", "0.attn", 0.5), ("dead", "0.mlp", 0.6)
    )}  # fmt: skip
    run = put(tmp_path / "run", metrics | shares)
    artifact = tmp_path / "artifacts" / "pretrain-abc"
    write(artifact)
    first = write_run(run).read_text()
    assert "| pretrain | 15.0 | 55.0 |" in first
    drawn = (run / "curves.png").read_bytes()
    if not there:
        artifact.rename(tmp_path / "elsewhere")
    again = write_run(run).read_text()
    assert "](curves.png)" in again
    assert (run / "curves.png").read_bytes() == drawn


def test_a_run_without_histories_has_none(tmp_path: Path, put: Put, metrics: dict[str, float]) -> None:
    run = put(tmp_path / "run", metrics)
    assert "curves.png" not in write_run(run).read_text()
    assert not (run / "curves.png").exists()
    assert json.loads((run / "metrics.json").read_text()) == metrics
