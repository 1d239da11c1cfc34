"""Every choice of every group goes with every choice of the others, as one would type it."""

import functools
import itertools
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from scae.config import Config, parse
from scae.hydra_support import values

CONF = Path(__file__).parents[1] / "conf"
GROUPS = ("model", "data", "sites", "sae", "connectivity", "loss", "trainer", "logger")
NEEDED = {
    "model=local": ["model.path={folder}"],
    "model=hub": ["model.name=a/b"],
    "data=hub": ["data.name=a/b"],
    "data=text": ["data.path={folder}"],
    "connectivity=file": ["connectivity.path={folder}/config.json"],
}
"""What a choice leaves to the user."""


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def rows() -> list[dict[str, str]]:
    """As few command lines as hold every choice; the short groups begin again, beside other choices."""
    longest = max(len(choices(group)) for group in GROUPS)
    columns = (itertools.islice(itertools.cycle(choices(group)), longest) for group in GROUPS)
    return [dict(zip(GROUPS, row, strict=True)) for row in zip(*columns, strict=True)]


@functools.cache
def typed(experiment: str, folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The checked sections of an experiment: of everything that is no group, and of every choice of every group.

    A choice that stands in several rows must be the same in all of them, whatever stands beside it.
    """
    plain: dict[tuple[str, str], Any] = {}
    sections: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    rest: dict[str, Any] = {}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for row in rows():
            chosen = [f"{group}={choice}" for group, choice in row.items()]
            needed = [value.format(folder=folder) for choice in chosen for value in NEEDED.get(choice, [])]
            found = values(compose("train", [f"experiment={experiment}", "paths.output=out", *chosen, *needed]))
            checked = Config.model_validate(found)
            for group, choice in row.items():
                assert plain.setdefault((group, choice), found[group]) == found[group]
                sections[group][choice] = getattr(checked, group)
            others = {key: getattr(checked, key) for key in Config.model_fields if key not in GROUPS}
            assert (rest or others) == others
            rest = others
    return rest, sections


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stands for a model, a text and a file of connections."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("config.json", "tokenizer.json", "a.txt"):
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_every_choice_goes_with_every_other(experiment: str, folder: Path) -> None:
    """The whole product. Hydra composes every choice once an experiment; the rules see every combination."""
    rest, sections = typed(experiment, folder)
    product = list(itertools.product(*(sections[group].values() for group in GROUPS)))
    assert len(product) == 72_000
    for combination in product:
        parse(rest | dict(zip(GROUPS, combination, strict=True)))


def test_the_loss_of_pretraining_takes_every_choice() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for loss in choices("loss"):
            found = values(compose("train", ["paths.output=out", f"loss@pretrain.loss={loss}", f"loss={loss}"]))
            assert parse(found).pretrain.loss == parse(found).loss


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_a_preset_says_how_many_features_are_active_whatever_the_type(experiment: str, folder: Path) -> None:
    rest, sections = typed(experiment, folder)
    assert rest["l0"] == sections["sae"]["topk"].k == sections["sae"]["batchtopk"].k
    assert {"k", "threshold_rate"}.isdisjoint(type(sections["sae"]["vanilla"]).model_fields)
