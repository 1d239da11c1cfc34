"""Threads spin briefly while they wait: said before torch is loaded, and not against the user."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scae.openmp import TURNS, VARIABLE, spin_briefly

ROOT = Path(__file__).parents[1]
TASK = f"""
import os, sys
from scae.hydra_support import command

@command(config_path={str(ROOT / "conf")!r}, config_name="train")
def main(config):
    print("spins", os.environ.get("{VARIABLE}"), "torch", "torch" in sys.modules)

main()
"""


@pytest.mark.parametrize("said", [{"OMP_WAIT_POLICY": "ACTIVE"}, {VARIABLE: "1000"}, {"KMP_BLOCKTIME": "1"}])
def test_what_the_user_said_stays(said: dict[str, str]) -> None:
    environment = dict(said)
    spin_briefly(environment, loaded=())
    assert environment == said


def test_nothing_is_said_once_torch_is_loaded() -> None:
    environment: dict[str, str] = {}
    spin_briefly(environment, loaded=("torch",))
    assert environment == {}
    spin_briefly(environment, loaded=())
    assert environment == {VARIABLE: TURNS}


@pytest.mark.parametrize("said", [None, "1000"])
def test_the_command_decides_before_torch_is_there(said: str | None, tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(TASK)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    done = subprocess.run(
        [sys.executable, "task.py", f"hydra.run.dir={tmp_path / 'out'}"],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(ROOT)} | ({VARIABLE: said} if said else {}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"spins {said or TURNS} torch False" in done.stdout
