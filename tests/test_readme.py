"""The README says what is true of the commands and the files."""

import re
from pathlib import Path

import pytest
from test_imports import FILES, LAYER, home

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_ci_installs_and_tests_as_the_readme_says() -> None:
    ci = (ROOT / ".ci/run").read_text()
    installs = re.findall(r"pip install (-c constraints\.txt -e \S+)", README)
    assert len(installs) == 2
    for install in installs:
        assert f"pip install --quiet {install}" in ci
    (tests,) = re.findall(r"&& (pytest.*)", README)
    assert re.search(f"^{tests}$", ci, re.MULTILINE)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:scae|conf)/[\w/.]*)`", README))))
def test_what_the_readme_points_at_exists(path: str) -> None:
    assert (ROOT / path).exists()


def test_the_rooms_are_named_once_from_the_lowest_to_the_highest() -> None:
    rows = [line.split("|")[1] for line in README.partition("## Inside")[2].splitlines() if line.startswith("|")]
    named = [Path(found).stem for row in rows for found in re.findall(r"`scae/([\w.]+)/?`", row)]
    assert sorted(named) == sorted({home(path) for path in FILES} - {"__init__"})
    layers = [LAYER[name] for name in named]
    assert layers == sorted(layers)


def commands() -> list[str]:
    return sorted({line.split("#")[0].strip() for line in README.splitlines() if line.startswith("python train.py ")})


@pytest.mark.parametrize("line", commands())
def test_every_command_of_the_readme_composes(line: str) -> None:
    import shlex

    from hydra import compose, initialize_config_dir

    arguments = [part for part in shlex.split(line)[2:] if part != "-m"]
    first = [re.sub(r"=([^\[,]*),.*", r"=\1", part) for part in arguments]  # the first job of a sweep
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert compose("train", overrides=first).sae.kind
