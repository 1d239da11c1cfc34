"""The examples run as they stand, in one folder, where each takes what the one before has made."""

from pathlib import Path

import commands
import pytest

from scae import train

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_an_example_runs(example: Path, folder: Path) -> None:
    done = commands.run(example, cwd=folder, environment={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-3000:]
    assert "nan" not in done.stdout.lower().split()


def test_what_the_command_refuses_is_raised(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match=r"sae\.k=0: allowed: at least 1"):
        train("experiment=smoke", "sae.k=0", folder=tmp_path / "run")
    assert not (tmp_path / "run/metrics.json").exists()
