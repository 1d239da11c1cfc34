"""A suite on disk: what is read is what was written, of every type, and what does not fit is refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scae.dictionaries import Dictionary, Shape
from scae.dictionaries.types import TYPES
from scae.lm import LanguageModel
from scae.suite import Suite
from scae.suite.files import load, save

Make = Callable[..., Any]
SITE = "0.mlp"


@pytest.fixture
def lm(build_tiny: Make) -> LanguageModel:
    return build_tiny("gpt2").lm


@pytest.fixture
def stored(lm: LanguageModel, make_suite: Make, tmp_path: Path) -> Suite:
    """A suite of TopK, written to `tmp_path`."""
    suite = make_suite(lm).float()
    save(suite, tmp_path)
    return suite


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what `suite.json` says of one dictionary."""
    note = json.loads((folder / "suite.json").read_text())
    change(note["dictionaries"][SITE])
    (folder / "suite.json").write_text(json.dumps(note))


def same_state(one: Suite, other: Suite) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("activation", ["topk", "relu", "batchtopk"])
def test_what_is_read_is_what_was_written(
    lm: LanguageModel, make_suite: Make, ragged: Make, tmp_path: Path, activation: str
) -> None:
    suite = make_suite(lm, activation=activation).float()
    suite.connect(ragged(suite.layout))
    suite.threshold_pass = "pruned"
    save(suite, tmp_path)
    loaded = load(tmp_path, lm)
    same_state(loaded, suite)
    assert loaded.connections == suite.connections
    assert loaded.threshold_pass == "pruned"
    for site in suite.sites:
        assert loaded[site].spec == suite[site].spec
        assert loaded[site].shape == suite[site].shape
        assert type(loaded[site].activation) is type(suite[site].activation)


def test_the_note_holds_types_settings_and_shapes(stored: Suite, tmp_path: Path) -> None:
    note = json.loads((tmp_path / "suite.json").read_text())
    assert note["format"] == 5
    site = next(site for site in stored.sites if str(site) == SITE)
    shape = {"n_features": stored[site].n_features, "d_in": 16, "d_out": 16, "transcoder": True}
    assert note["dictionaries"][SITE] == {"type": "topk", "k": 4, "shape": shape}
    assert list(note["dictionaries"]) == [str(site) for site in stored.sites]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda one: one.update(sharpness=2.0), "settings of a dictionary of type topk: .*'sharpness'"),
        (lambda one: one.pop("k"), "settings of a dictionary of type topk: .*'k'"),
        (lambda one: one.update(type="gated"), "no type of dictionary is called 'gated'; there are vanilla, topk"),
        (lambda one: one.pop("type"), "'type'"),
        (lambda one: one.pop("shape"), "'shape'"),
        (lambda one: one["shape"].update(depth=2), "'depth'"),
        (lambda one: one["shape"].pop("d_in"), "'d_in'"),
        (
            lambda one: one["shape"].update(d_in=12),
            r"0\.mlp reads and writes 12 and 16 numbers .* the model has 16 there",
        ),
    ],
    ids=["extra setting", "no setting", "no such type", "no type", "no shape", "extra size", "no size", "other model"],
)
def test_a_description_that_does_not_fit_is_refused_in_one_error(
    stored: Suite, tmp_path: Path, change: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    rewrite(tmp_path, change)
    with pytest.raises(ValueError, match=rf"suite\.json is no description of a suite: .*{reason}") as caught:
        load(tmp_path, stored.lm)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "suite.json") in str(caught.value)


def test_a_setting_that_a_type_gets_later_leaves_old_suites_readable(
    stored: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, seen = TYPES["topk"], []

    def later(shape: Shape, *, k: int, slope: float = 1.0) -> Dictionary:
        seen.append(slope)
        return build(shape, k=k)

    monkeypatch.setitem(TYPES, "topk", later)
    loaded = load(tmp_path, stored.lm)
    same_state(loaded, stored)
    assert seen == [1.0] * len(stored.sites)
    rewrite(tmp_path, lambda one: one.update(slope=2.0))
    load(tmp_path, stored.lm)
    assert sorted(seen[len(stored.sites) :]) == [1.0] * (len(stored.sites) - 1) + [2.0]
    rewritten = tmp_path / "again"
    rewritten.mkdir()
    save(load(tmp_path, stored.lm), rewritten)
    assert json.loads((rewritten / "suite.json").read_text())["dictionaries"][SITE]["slope"] == 2.0
