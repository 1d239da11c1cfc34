"""The examples run as they stand, each in a folder of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scae import train

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_an_example_runs(example: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, example], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "nan" not in done.stdout.lower().split()


def test_what_the_command_refuses_is_raised(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match=r"sae\.k=0: allowed: at least 1"):
        train("experiment=smoke", "sae.k=0", folder=tmp_path / "run")
    assert not (tmp_path / "run/metrics.json").exists()
