"""docs/extending.md: every diff applies to the repository as it is, and its command uses what it adds."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import commands
import pytest
from experiments import train

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")[1:]}
SEEN = {
    "A type of dictionary": '"type": "shrink"',
    "A kind of site": '"0.attn_here"',
    "A loss term": "train/cosine",
    "A score": '"method": "weight"',
    "An analysis": "pruned/longest/0.mlp",
}
"""What the run of a section leaves behind that no other does."""


def block(section: str, language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", SECTIONS[section], flags=re.DOTALL)
    assert found is not None, f"{section} has no block of {language}"
    return found[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts: the trained language model, which no section changes."""
    folder = tmp_path_factory.mktemp("model")
    done = train("experiment=smoke", "trainer=cpu", "stages=[model]", cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "artifacts"


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    for name in ("scae", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.pyc"))  # with compiled kernels
    shutil.copy(ROOT / "train.py", tmp_path)
    shutil.copytree(model, tmp_path / "artifacts")
    return tmp_path


def test_the_page_has_what_is_tested() -> None:
    assert list(SECTIONS) == list(SEEN)


@pytest.mark.parametrize("section", SEEN)
def test_a_diff_is_one_file_one_yaml_and_few_lines_elsewhere(section: str) -> None:
    """A file at most, a yaml at most, and no line elsewhere that is taken away but to say more."""
    files = re.split(r"^diff --git ", block(section, "diff"), flags=re.MULTILINE)[1:]
    new = [one for one in files if "new file mode" in one]
    assert sum(" b/conf/" in one for one in new) <= 1
    assert sum(" b/scae/" in one for one in new) <= 1
    added = [line for one in files if one not in new for line in one.splitlines() if re.match(r"\+(?!\+\+)", line)]
    assert len([line for line in added if line.strip("+ ")]) <= 8


@pytest.mark.slow
@pytest.mark.parametrize("section", SEEN)
def test_what_a_diff_adds_can_be_used(section: str, copy: Path) -> None:
    subprocess.run(["git", "apply", "-"], input=block(section, "diff"), text=True, cwd=copy, check=True)
    command = block(section, "bash").split()
    assert command[:2] == ["python", "train.py"]
    done = commands.run(copy / "train.py", *command[2:], "trainer=cpu", "hydra.run.dir=run", cwd=copy)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((copy / "run" / "metrics.json").read_text())["pruned/ce"] > 0
    left = [file for file in copy.rglob("*") if file.suffix in (".json", ".csv") and file.is_file()]
    assert any(SEEN[section] in file.read_text() for file in left)
