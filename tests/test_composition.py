"""Every choice of every group goes with every choice of the others, as one would type it."""

import functools
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from experiments import alone, configure, corpus, execute, train
from hydra import compose, initialize_config_dir

from scae.command import values
from scae.config import Config, parse
from scae.experiment.plan import Plan
from scae.experiment.separator import settle

CONF = Path(__file__).parents[1] / "conf"
GROUPS = ("model", "data", "sites", "sae", "connectivity", "loss", "trainer", "logger")
HOOK = "blocks.1.hook_resid_post"
NEEDED = {
    "model=local": ["model.path={folder}"],
    "model=hub": ["model.name=a/b"],
    "data=hub": ["data.name=a/b"],
    "data=text": ["data.path={folder}"],
    "sites=hook": [f"sites.hook={HOOK}"],
    "connectivity=file": ["connectivity.path={folder}/config.json"],
}
"""What a choice leaves to the user."""


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml") if not says_a_name_alone(path))


def says_a_name_alone(preset: Path) -> bool:
    """A model that model=hub stands for; each of them is tried in `tests/lm/test_presets.py`."""
    said = yaml.safe_load(preset.read_text())
    return preset.parent.name == "model" and said.get("defaults") == ["hub"] and said.keys() == {"defaults", "name"}


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
def test_every_choice_goes_with_every_other(experiment: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pair of choices, the other groups going round beside it: no rule looks at more than two groups. Hydra
    composes every choice once an experiment."""
    rest, sections = typed(experiment, folder)
    monkeypatch.setattr("scae.config.rules._unwritable", lambda config: ())  # looks at the disk, and at no choice
    around = {group: itertools.cycle(sections[group].values()) for group in GROUPS}
    count = 0
    for one, other in itertools.combinations(GROUPS, 2):
        for pair in itertools.product(sections[one].values(), sections[other].values()):
            chosen = {group: next(around[group]) for group in GROUPS} | dict(zip((one, other), pair, strict=True))
            parse(rest | chosen)
            count += 1
    sizes = [len(choices(group)) for group in GROUPS]
    assert count == sum(a * b for a, b in itertools.combinations(sizes, 2))


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


# the smoke size of every row, from end to end

ENDS = ((), ("sites.embed=true",), ("sites.unembed=true",), ("sites.embed=true", "sites.unembed=true"))
SHORT = (
    *("model.steps=10", "pretrain.steps=4", "finetune.steps=4", "finetune.regrow.every=2", "trainer.progress=false"),
    "analysis.edges=null",
)
LINES = {
    " ".join((*row.values(), *ends)): (row, ends) for row, ends in zip(rows(), itertools.cycle(ENDS), strict=False)
}
_ = alone  # a fixture of every test here, too


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, save_llama: Callable[..., Path]) -> Path:
    """A text, and a small random Llama directory that stands for every model from elsewhere."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "text").mkdir()
    corpus(folder / "text/text.jsonl")
    text = (folder / "text/text.jsonl").read_text()
    save_llama(folder / "model", text=text, vocab_size=300, max_position_embeddings=64)
    return folder


def local_names(row: dict[str, str], files: Path) -> list[str]:
    """What a user gives to these choices; what lies on the hub is read from a folder, and a GPU may be missing."""
    import torch

    found = []
    if row["model"] not in ("tiny", "smoke"):
        found.append(f"model.{'path' if row['model'] == 'local' else 'name'}={files / 'model'}")
    if row["data"] != "stdlib":
        found.append(f"data.{'path' if row['data'] == 'text' else 'name'}={files / 'text'}")
    if row["trainer"] == "ddp" or (row["trainer"] == "gpu" and not torch.cuda.is_available()):
        found.append("trainer.accelerator=cpu")
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("row", "ends"), LINES.values(), ids=LINES)
def test_every_row_runs_to_the_end(row: dict[str, str], ends: tuple[str, ...], files: Path, tmp_path: Path) -> None:
    short = [part for part in SHORT if row["model"] in ("tiny", "smoke") or not part.startswith("model.")]
    own = [f"paths.artifacts={tmp_path / 'artifacts'}", *local_names(row, files), *short]
    chosen = [f"{group}={choice}" for group, choice in row.items() if group != "connectivity"]
    chosen += [f"sites.hook={HOOK}"] if row["sites"] == "hook" else []
    pruned = row["sites"] not in ("mlp_out", "resid", "hook")
    chosen = ["experiment=smoke", *chosen, *(ends if pruned else ()), f"loss@pretrain.loss={row['loss']}", *own]
    connectivity = [f"connectivity={row['connectivity']}"] if pruned or row["connectivity"] != "file" else []
    if row["connectivity"] == "file" and pruned:
        one_process = ("trainer.strategy=auto", "trainer.devices=1", f"paths.output={tmp_path}")
        config = configure(*chosen, *one_process, "stages=[select]")
        execute(config)
        plan = Plan(settle(config))
        connectivity.append(f"connectivity.path={plan.select(plan.chosen).folder / 'connections.safetensors'}")
    if row["trainer"] == "ddp":
        done = train(*chosen, *connectivity, f"hydra.run.dir={tmp_path / 'out'}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    else:
        metrics = execute(configure(*chosen, *connectivity, f"paths.output={tmp_path / 'out'}"))
    assert metrics
    assert all(math.isfinite(value) for value in metrics.values())
    assert (tmp_path / "out/report.md").is_file()
