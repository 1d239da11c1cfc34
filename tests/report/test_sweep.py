"""The report of a sweep, whatever became of its jobs."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from scae.report import write_sweep
from scae.report.files import read_job
from scae.report.sweep_figure import positions
from scae.report.sweep_jobs import ALL, axis_of, budget, panels_of, varying

Put = Callable[..., Path]
Make = Callable[..., dict[str, float]]


def png_size(path: Path) -> tuple[int, int]:
    return struct.unpack(">II", path.read_bytes()[16:24])


def test_a_row_a_job_with_what_differs(sweep: Path) -> None:
    page = write_sweep(sweep).read_text()
    assert "4 of 5 jobs have metrics. All with `sae.k=32`." in page
    assert "| 2 | 64 | completed | 3 min 51 s | 1.980 | +0.350 | 95.5 |" in page
    assert "| 2 | 64 | 1.630 | 2.220 | 2.210 | 1.980 | 3.290 | 6.300 | 2.340 | 2.510 | 1.850 | 1.940 |" in page
    assert "| job | connectivity.C | status |" in page


def test_a_failed_job_is_listed_with_the_first_line_of_its_error(sweep: Path) -> None:
    page = write_sweep(sweep).read_text()
    assert "| 4 | -1 | failed |" in page
    assert "- **4** (failed) `sae.k=32 connectivity.C=-1`: ValueError: `connectivity.C` must be >= 0\n" in page
    assert "Traceback" not in page


def test_the_numbers_for_programs(sweep: Path) -> None:
    write_sweep(sweep)
    content = json.loads((sweep / "sweep.json").read_text())
    assert content["varying"] == ["connectivity.C"]
    assert [job["status"] for job in content["jobs"]] == ["completed"] * 4 + ["failed"]
    assert content["jobs"][2]["metrics"]["pruned/ce"] == pytest.approx(1.98)
    assert content["jobs"][4]["metrics"] == {}


def test_the_figure(sweep: Path) -> None:
    write_sweep(sweep)
    assert png_size(sweep / "sweep.png") == (2130, 750)
    assert (sweep / "sweep.png").stat().st_size > 30_000
    assert not list(sweep.glob(".*tmp"))


@pytest.mark.parametrize("finished", [0, 1])
def test_few_or_no_finished_jobs(sweep: Path, finished: int) -> None:
    for number in range(finished, 4):
        (sweep / str(number) / "metrics.json").unlink()
        job = sweep / str(number) / "job.json"
        job.write_text(json.dumps(json.loads(job.read_text()) | {"status": "running"}))
    page = write_sweep(sweep).read_text()
    assert (sweep / "sweep.png").exists() == bool(finished)
    assert ("nothing to plot yet" in page) == (not finished)
    assert "- **3** (running) `sae.k=32 connectivity.C=256`: still running, or killed" in page


def test_a_job_without_metrics_is_not_called_completed(sweep: Path, put: Callable[..., Path]) -> None:
    put(sweep / "5", None, ["sae.k=32", "stages=[pretrain]"])
    page = write_sweep(sweep).read_text()
    assert "| 5 |" in page
    assert "- **5** (no metrics) `sae.k=32 stages=[pretrain]`: it ended without an evaluation" in page
    assert json.loads((sweep / "sweep.json").read_text())["jobs"][5]["status"] == "no metrics"


def test_rebuilt_when_a_job_is_added_or_damaged(sweep: Path) -> None:
    write_sweep(sweep)
    shutil.copytree(sweep / "3", sweep / "10")
    (sweep / "0" / "metrics.json").write_text('{"lm/ce": ')
    page = write_sweep(sweep).read_text()
    assert page.index("| 4 | -1 |") < page.index("| 10 | 256 |")
    assert "is not valid JSON" in page


def test_zero_and_all_are_one_step_outside() -> None:
    places = positions({0.0, 4.0, 16.0, 64.0, ALL}, numeric=True)
    assert places == {0.0: 0.0, 4.0: 2.0, 16.0: 4.0, 64.0: 6.0, ALL: 8.0}


def test_jobs_that_differ_in_something_else_are_categories(tmp_path: Path, put: Put, make: Make) -> None:
    jobs = [read_job(put(tmp_path / k, make(), [f"sae.k={k}"])) for k in ("16", "32")]
    axis = axis_of(jobs)
    assert (axis.name, axis.numeric) == ("sae.k", False)
    assert [axis.place(job) for job in jobs] == ["16", "32"]
    assert "against sae.k" in write_sweep(tmp_path).read_text()
    assert png_size(tmp_path / "sweep.png") == (2130, 750)


def test_another_parameter_beside_c_opens_panels_and_seeds_do_not(tmp_path: Path, put: Put, make: Make) -> None:
    jobs = []
    for sae in ("topk", "batchtopk"):
        for seed in (0, 1):
            for c in (4, 16):
                overrides = [f"sae={sae}", f"seed={seed}", f"connectivity.C={c}"]
                jobs.append(read_job(put(tmp_path / str(len(jobs)), make(c, shift=0.1 * seed), overrides)))
    panels = panels_of(jobs, axis_of(jobs))
    assert {title: len(members) for title, members in panels.items()} == {"sae=topk": 4, "sae=batchtopk": 4}
    write_sweep(tmp_path)
    assert png_size(tmp_path / "sweep.png") == (2130, 1500)


def test_the_budget_of_a_job(tmp_path: Path, put: Put) -> None:
    def job(name: str, metrics: dict[str, float], *overrides: str) -> float | None:
        return budget(read_job(put(tmp_path / name, metrics, list(overrides))))

    assert job("asked", {"connectivity/C": 7}, "++connectivity.C=0") == 0
    assert job("all", {}, "connectivity.C=all") == ALL
    assert job("told", {"connectivity/C": 7}) == 7
    assert job("unknown", {}) is None


def test_what_differs(tmp_path: Path, put: Put) -> None:
    one = read_job(put(tmp_path / "1", None, ["a=1", "b=2", "~logger"]))
    two = read_job(put(tmp_path / "2", None, ["a=1", "b=3"]))
    assert varying([one, two]) == ("b", "~logger")


def test_a_sweep_of_suites_that_are_not_pruned_is_about_the_live_model(tmp_path: Path, put: Put, make: Make) -> None:
    metrics = {key.replace("pruned/", "spliced/"): value for key, value in make(twins=False).items()}
    metrics = {key: value for key, value in metrics.items() if key.startswith(("lm/", "plain/", "spliced/"))}
    for k in (8, 16):
        put(tmp_path / "sweep" / str(k), metrics, ["sites=resid", f"sae.k={k}"])
    page = write_sweep(tmp_path / "sweep").read_text()
    assert "Results are those of the **spliced** arm." in page
    assert "| 8 | 8 | completed | 3 min 51 s | 1.980 |" in page
