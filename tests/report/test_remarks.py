"""What must not be overlooked is said under the table, on every page and in the terminal; a good run is left alone."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from scae.report import remarks, write_run, write_sweep
from scae.report.__main__ import main

Put = Callable[..., Path]
Make = Callable[..., dict[str, float]]


@pytest.mark.parametrize("twins", [True, False])
def test_nothing_where_all_is_well(make: Make, twins: bool) -> None:
    assert remarks(make(twins=twins)) == []
    assert remarks({"lm/ce": 3.0}) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"pruned_no_finetune/ce": 1.9},
            r"^Finetuning made `pruned` worse \(CE 1\.980 against 1\.900 before\): .*finetune\.lr",
        ),
        ({"random/ce": 6.31}, r"^Finetuning made `random` worse \(CE 6\.310 against 6\.300 before\)"),
        (
            {"plain_finetuned/ce": 2.23},
            r"^Finetuning made `plain, finetuned` worse \(CE 2\.230 against 2\.220 before\)",
        ),
        ({"pruned/ce": 2.52}, r"^`pruned` is worse than `no connections` \(CE 2\.520 against 2\.510\)"),
        ({"plain/ce": 6.19}, r"^`plain` is worse than token frequencies alone \(CE 6\.190 against 6\.180"),
        ({"none/ce": 6.2}, r"^`no connections` is worse than token frequencies"),
        (
            {"pruned/dead/2.mlp": 0.81},
            r"^In `pruned`, more than 80% of features never fire .*: 2\.mlp \(81\.0%\)\.$",
        ),
        (
            {"plain_finetuned/dead/0.attn": 1.0},
            r"^In `plain, finetuned`, more than 80% of features .*: 0\.attn \(100\.0%\)\.$",
        ),
        (
            {"lm/replaced": 4.0, "lm/modules": 8.0},
            r"^Dictionaries stand in for 4 of the model's 8 modules\. In every arm, zero .* the model's clean run:",
        ),
    ],
)
def test_each_finding(make: Make, changes: dict[str, float], told: str) -> None:
    (line,) = remarks(make() | changes)
    assert re.search(told, line)


@pytest.mark.parametrize(
    "changes",
    [
        {"pruned/ce": 3.2904, "none/ce": 3.5},  # the table shows no difference
        {"random_no_finetune/ce": 7.0},  # what one expects of random connections
        {"random/dead/2.mlp": 0.95},
        {"random_no_finetune/dead/2.mlp": 0.95},
        {"pruned/dead/2.mlp": 0.8},
        {"lm/replaced": 8.0, "lm/modules": 8.0},
    ],
    ids=str,
)
def test_what_is_no_finding(make: Make, changes: dict[str, float]) -> None:
    assert remarks(make() | changes) == []


def test_many_dead_sites_are_named_in_order_and_counted(make: Make) -> None:
    dead = {f"pruned/dead/{site}": 0.9 for site in ("10.attn", "3.mlp", "2.mlp", "2.attn", "1.mlp", "11.mlp")}
    (line,) = remarks(make() | dead)
    assert "text: 1.mlp (90.0%), 2.attn (90.0%), 2.mlp (90.0%), 3.mlp (90.0%) and 2 more sites." in line


def test_the_page_and_the_terminal_say_it_under_the_table(
    tmp_path: Path, put: Put, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    run = put(tmp_path / "run", make() | {"pruned/ce": 2.52})
    page = write_run(run).read_text()
    (line,) = remarks(make() | {"pruned/ce": 2.52})
    assert page.index("| zero ablation |") < page.index(f"\n\n- {line}\n\n") < page.index("## The arms")
    assert main([str(run)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.index("zero ablation") < printed.index(f"- {line} ")


def test_a_sweep_has_one_line_a_job(sweep: Path, put: Put, make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    assert "\n- job" not in write_sweep(sweep).read_text().partition("## Where things lie")[0]
    put(sweep / "7", make() | {"pruned/ce": 3.3, "plain/dead/0.mlp": 0.9}, ["connectivity.C=5"])
    page = write_sweep(sweep).read_text()
    (line,) = re.findall(r"^- job .*made.*$", page, re.MULTILINE)
    assert line.startswith("- job 7: Finetuning made `pruned` worse")
    assert "is worse than `no connections`" in line
    assert "0.mlp (90.0%)" in line
    assert main([str(sweep)]) == 0
    assert "- job 7: Finetuning made `pruned` worse" in capsys.readouterr().out
