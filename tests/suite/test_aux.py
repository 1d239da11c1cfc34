"""What a loss may ask the dictionaries of a pass for: by name and site, and nothing that it has not asked for."""

from collections.abc import Callable
from typing import Any

import pytest

from scae.config import AuxK
from scae.dictionaries import Dictionary
from scae.lm import LanguageModel, Trace
from scae.suite import Mode

Make = Callable[..., Any]
MODES: tuple[Mode, ...] = ("plain", "spliced", "dense", "pruned")


@pytest.fixture
def lm(build_tiny: Make) -> LanguageModel:
    return build_tiny("gpt2").lm


@pytest.fixture
def trace(lm: LanguageModel, batch: Any) -> Trace:
    return lm.trace(*batch)


@pytest.mark.parametrize("mode", MODES)
def test_every_pass_answers_by_name_and_site(
    lm: LanguageModel, trace: Trace, make_suite: Make, ragged: Make, mode: Mode
) -> None:
    suite = make_suite(lm, activation="relu", auxk=AuxK(k=3, dead_after=100))
    suite.connect(ragged(suite.layout))
    for site in suite.sites:
        suite[site].tokens_since_fired[2:8] = 100
    out = suite(trace, mode, aux=["penalty", "revived"])
    assert set(out.aux) == {"penalty", "revived"}
    for by_site in out.aux.values():
        assert set(by_site) == set(suite.sites)
    for site in suite.sites:
        assert out.aux["revived"][site].shape == (trace.live.numel(), lm.paths.d_model)
        assert out.aux["penalty"][site].shape == out.codes[site].value.shape
    assert set(suite(trace, mode, aux=["penalty"]).aux) == {"penalty"}
    assert suite(trace, mode).aux == {}
    assert set(suite.eval()(trace, mode, aux=["penalty", "revived"]).aux) == {"penalty"}, "training alone revives"


@pytest.mark.parametrize("mode", MODES)
def test_nobody_revives_what_nobody_asks_for(
    lm: LanguageModel, trace: Trace, make_suite: Make, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("nobody has asked")

    suite = make_suite(lm, auxk=AuxK(k=3, dead_after=1))
    monkeypatch.setattr(Dictionary, "dead_code", never)
    assert suite(trace, mode).aux == {}
    with pytest.raises(AssertionError, match="asked"):
        suite(trace, mode, aux=["revived"])
