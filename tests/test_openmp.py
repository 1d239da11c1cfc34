"""Threads sleep beside other work: said before torch is loaded, once in the log, and not against the user."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scae.core.openmp import CHOSEN, POLICY, _others_run, sleep_beside_others

ROOT = Path(__file__).parents[1]
TASK = f"""
import os, sys
from scae.command import command

@command(config_path={str(ROOT / "conf")!r}, config_name="train")
def main(config):
    print("policy", os.environ.get("{POLICY}"), "torch", "torch" in sys.modules)

main()
"""


@pytest.mark.parametrize("said", [{POLICY: "ACTIVE"}, {"GOMP_SPINCOUNT": "1000"}, {"KMP_BLOCKTIME": "1"}])
def test_what_the_user_said_stays(said: dict[str, str]) -> None:
    environment = dict(said)
    assert not sleep_beside_others(environment, loaded=(), others_run=lambda: True)
    assert environment == said


def test_they_sleep_beside_others_alone_and_before_torch_is_loaded() -> None:
    environment: dict[str, str] = {}
    assert not sleep_beside_others(environment, loaded=("torch",), others_run=lambda: True)
    assert not sleep_beside_others(environment, loaded=(), others_run=lambda: False)
    assert environment == {}
    assert sleep_beside_others(environment, loaded=(), others_run=lambda: True)
    assert environment == {POLICY: "PASSIVE"}


@pytest.mark.parametrize(
    ("counts", "others"), [("0.9 0.5 0.2 1/80 7\n", False), ("0.0 0.0 0.0 2/80 7\n", True), ("?\n", False)]
)
def test_others_are_what_runs_beside_this_process(counts: str, others: bool, tmp_path: Path) -> None:
    (tmp_path / "loadavg").write_text(counts)
    assert _others_run(tmp_path / "loadavg") is others
    assert not _others_run(tmp_path / "none")


@pytest.mark.skipif(not Path("/proc/loadavg").exists(), reason="only Linux counts what runs")
@pytest.mark.parametrize("said", [None, "ACTIVE"])
def test_the_command_decides_before_torch_is_there_and_says_it_once(said: str | None, tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(TASK)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        done = subprocess.run(
            [sys.executable, "task.py", f"hydra.run.dir={tmp_path / 'out'}"],
            cwd=tmp_path,
            env=environment | {"PYTHONPATH": str(ROOT)} | ({POLICY: said} if said else {}),
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        other.kill()
        other.wait()
    assert f"policy {said or 'PASSIVE'} torch False" in done.stdout
    assert (done.stdout + done.stderr).count(CHOSEN) == (0 if said else 1)
