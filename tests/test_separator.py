"""What `data.separator=auto` chooses: measured once, kept, and no part of any name but as what it chose."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import experiments
import pytest

from scae.config import Config
from scae.data import train_tokenizer
from scae.experiment import separator
from scae.experiment.plan import Plan
from scae.experiment.separator import choice_for, settle
from scae.experiment.table import made_by

CONF = Path(__file__).parents[1] / "conf"
DATA = Path(os.environ.get("SCAE_TEST_DATA", CONF.parent / "../shared/data"))
TOKENIZER = train_tokenizer(["some text of a few words"], 280)
NAMES = {None: "none", 1: "bos", 2: "eos"}
Of = Callable[..., Config]
Measure = Callable[..., list[tuple[str, list[Any]]]]


def configure(folder: Path, *overrides: str) -> Config:
    text = [] if any(part.startswith("data.path=") for part in overrides) else [f"data.path={folder / 'text.jsonl'}"]
    paths = [f"paths.artifacts={folder / 'artifacts'}", f"paths.output={folder}"]
    return experiments.configure("model=local", "data=text", *paths, *text, *overrides)


@pytest.fixture
def of(tmp_path: Path) -> Of:
    """Configurations of one model and one text."""
    (tmp_path / "model").mkdir()
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / "model" / name).write_text("{}")
    write(tmp_path, [f"document number {number}" for number in range(30)])
    return lambda *overrides: configure(tmp_path, f"model.path={tmp_path / 'model'}", *overrides)


def write(folder: Path, texts: list[str]) -> None:
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Measure:
    """Let the model have this cross-entropy under each separator; returns what was measured, on which documents."""

    def let(ce: dict[str, float], tokenizer: Any = TOKENIZER) -> list[tuple[str, list[Any]]]:
        asked: list[tuple[str, list[Any]]] = []

        def at_borders(lm: Any, documents: list[Any], token: int | None, **_: Any) -> float:
            asked.append((NAMES[token], documents))
            return ce[NAMES[token]]

        monkeypatch.setattr("scae.evaluation.borders.ce_at_borders", at_borders)
        monkeypatch.setattr("scae.experiment.workshop.Workshop.lm", SimpleNamespace(tokenizer=tokenizer, context=64))
        return asked

    return let


def names(config: Config) -> list[str]:
    plan = Plan(config)
    return [artifact.name for artifact in made_by(plan, ["pretrain", "select", "finetune", "evaluate"])]


@pytest.mark.parametrize(
    ("ce", "chosen"),
    [
        ({"none": 1.569, "bos": 1.550, "eos": 1.585}, "bos"),
        ({"none": 1.5, "bos": 1.6, "eos": 1.4}, "eos"),
        ({"none": 1.5, "bos": 1.5, "eos": 1.5}, "none"),
        ({"none": 1.6, "bos": 1.5, "eos": 1.5}, "bos"),
    ],
)
def test_the_lowest_cross_entropy_is_chosen_and_of_equals_the_simplest(
    of: Of, measure: Measure, caplog: pytest.LogCaptureFixture, ce: dict[str, float], chosen: str
) -> None:
    measure(ce)
    with caplog.at_level(logging.INFO):
        assert settle(of()).data.separator == chosen
    (line,) = [record.message for record in caplog.records]
    assert line.startswith(f"data.separator: {chosen} (CE around 26 borders of training documents: {chosen} ")
    assert all(f"{name} {value:.3f}" in line for name, value in ce.items())


def test_the_choice_is_kept_and_the_model_is_not_opened_again(
    of: Of, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = measure({"none": 3.0, "bos": 1.0, "eos": 2.0})
    first = settle(of())
    assert [name for name, _ in asked] == ["none", "bos", "eos"]
    monkeypatch.setattr(separator, "_measure", lambda *_: pytest.fail("measured again"))
    assert settle(of()) == first


@pytest.mark.parametrize("content", ["", '{"facts": {}}'])
def test_a_damaged_choice_is_measured_again(
    of: Of, measure: Measure, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    measure({"none": 2.0, "bos": 1.0, "eos": 3.0})
    first = settle(of())
    note = choice_for(of()).folder / "artifact.json"
    note.write_text(content)
    assert settle(of()) == first
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith(f"{note} is damaged")
    assert warning.endswith("measured again")
    assert choice_for(of()).damage() is None


def test_what_auto_chose_shares_every_artifact_with_what_was_said(of: Of, measure: Measure) -> None:
    measure({"none": 3.0, "bos": 1.0, "eos": 2.0})
    assert names(settle(of())) == names(settle(of("data.separator=bos")))
    assert not set(names(settle(of()))) & set(names(settle(of("data.separator=eos"))))


def test_the_choice_depends_on_the_model_and_what_it_reads(of: Of, tmp_path: Path) -> None:
    before = choice_for(of()).name
    assert choice_for(of("sae.k=3", "seed=1", "data.context=64")).name == before
    changed = [choice_for(of(override)).name for override in ("data.attend_across=false", "data.heldout=0.2")]
    write(tmp_path, ["other text"])
    changed.append(choice_for(of()).name)
    (tmp_path / "model" / "config.json").write_text('{"changed": 1}')
    changed.append(choice_for(of()).name)
    assert len({before, *changed}) == 5


def test_only_training_documents_are_read(of: Of, measure: Measure) -> None:
    asked = measure({"none": 3.0, "bos": 1.0, "eos": 2.0})
    settle(of())
    for _, tokens in asked:
        assert [TOKENIZER.decode(ids) for ids in tokens] == [
            f"document number {number}" for number in range(30) if number % 10 != 9
        ]


def test_a_single_document_has_no_borders(
    of: Of, measure: Measure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, ["only one"])
    asked = measure({})
    with caplog.at_level(logging.INFO):
        assert settle(of()).data.separator == "none"
    assert not asked
    assert caplog.messages == ["data.separator: none (one document of training text, nothing to separate)"]


def test_only_tokens_that_exist_are_tried_each_once(of: Of, measure: Measure) -> None:
    one = train_tokenizer(["some text of a few words"], 280)
    one.eos_token = "<bos>"
    asked = measure({"none": 2.0, "bos": 1.0}, one)
    assert settle(of()).data.separator == "bos"
    assert [name for name, _ in asked] == ["none", "bos"]
    bare = train_tokenizer(["some text of a few words"], 280)
    bare.bos_token = bare.eos_token = None
    asked = measure({}, bare)
    assert settle(of("data.heldout=0.2")).data.separator == "none"
    assert not asked


def test_what_was_said_is_not_measured(of: Of, measure: Measure, tmp_path: Path) -> None:
    asked = measure({})
    for override in ("data.separator=eos", "data.separator=none", "data.packing=document"):
        config = of(override)
        assert settle(config) is config
    assert not asked
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["stories260K", "babyllama105"])
def test_real_models_that_never_saw_an_eos_get_a_bos(model: str, tmp_path: Path) -> None:
    text = DATA / "text" / "tinystories.jsonl"
    if not (DATA / model).is_dir() or not text.is_file():
        pytest.skip(f"no model and text in {DATA}; SCAE_TEST_DATA names another folder")
    config = configure(tmp_path, f"model.path={DATA / model}", f"data.path={text}")
    assert settle(config).data.separator == "bos"
    ce = choice_for(config).facts()["ce"]
    assert ce["bos"] < ce["none"] < ce["eos"]
