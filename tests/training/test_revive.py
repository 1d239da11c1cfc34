"""Silent features: by how much they lack, that a round lets them in, and that a resumed run lets in the same ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fits import Interrupted, between_steps, finetune, state, training
from test_refit import preactivations

from scae.artifacts.checkpoints import CHECKPOINT
from scae.config import Revive
from scae.data import TokenWindows
from scae.lm import LanguageModel, Trace
from scae.suite import Mode, Suite
from scae.training import Revival, SuiteTraining
from scae.training.revive import Best, look

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def windows(full_windows: TokenWindows) -> TokenWindows:
    return full_windows


def silenced(lm: LanguageModel, make_suite: Make, ragged: Make, activation: str = "topk") -> Suite:
    """Two features of every site are far from firing."""
    suite = make_suite(lm, activation=activation)
    for site in suite.sites:
        suite[site].encoder.b.data[[1, 5]] -= 50
    suite.connect(ragged(suite.layout))
    return suite


@pytest.mark.parametrize("activation", ["topk", "relu", "batchtopk", "jumprelu"])
@pytest.mark.parametrize("mode", ["plain", "pruned"])
def test_the_best_token_of_every_feature_and_what_it_would_be_good_for(
    lm: LanguageModel, make_suite: Make, ragged: Make, trace: Trace, activation: str, mode: Mode
) -> None:
    suite = silenced(lm, make_suite, ragged, activation)
    out, best = look(suite, trace, mode)
    seen = preactivations(suite, trace, mode)
    with torch.no_grad(), suite.inference():
        codes = suite(trace, mode=mode).codes
    for site in suite.sites:
        dictionary, found = suite[site], best[site]
        active = codes[site].dense() > 0
        margins = torch.full((len(active), dictionary.n_features), -torch.inf, dtype=torch.float64)
        weakest = torch.zeros(len(active), dtype=torch.float64)
        for token in trace.live.flatten().nonzero()[:, 0].tolist():
            if bool(active[token].any()):
                weakest[token] = seen[site][token][active[token]].min()
            margins[token] = seen[site][token] - weakest[token]
        torch.testing.assert_close(found.margin, margins.max(0).values)
        torch.testing.assert_close(margins.gather(0, found.token[None])[0], found.margin)
        torch.testing.assert_close(found.weakest, weakest[found.token])
        assert bool((found.margin[[1, 5]] < -10).all())
        error = trace.outputs[site.module] - out.outputs[site.module]
        at = error.flatten(0, 1)[found.token]
        with torch.no_grad():
            more = found.weakest[:, None] * dictionary.decoder.W * dictionary.writes.scale
        smaller = (at - more).square().sum(1) < at.square().sum(1)
        clear = found.weakest > 0
        assert torch.equal((found.use(dictionary, error) > 0)[clear], smaller[clear])


def run(
    suite: Suite,
    windows: TokenWindows,
    folder: Path,
    accumulate: int = 1,
    module: type[SuiteTraining] = SuiteTraining,
    **changes: Any,
) -> None:
    revive = Revive(**({"every": 4, "after": 30, "until": 0.9} | changes))
    revival = Revival(suite, revive, steps=training().steps)
    finetune(suite, windows, folder, revival, accumulate, module)


def test_silent_features_fire_again(
    gpt2: LanguageModel, windows: TokenWindows, make_suite: Make, ragged: Make, tmp_path: Path
) -> None:
    revived, left = (silenced(gpt2, make_suite, ragged) for _ in range(2))
    run(revived, windows, tmp_path / "revived")
    run(left, windows, tmp_path / "left", every=None)
    since = [torch.cat([suite[site].tokens_since_fired[[1, 5]] for site in suite.sites]) for suite in (revived, left)]
    assert bool((since[1] > 400).all()), "50 below, and AuxK is far away"
    assert int((since[0] < 400).sum()) >= 4


def test_what_would_enlarge_the_error_stays_out(
    gpt2: LanguageModel,
    windows: TokenWindows,
    make_suite: Make,
    ragged: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Best, "use", lambda self, dictionary, error: torch.full_like(self.margin, -1.0))
    one, other = (silenced(gpt2, make_suite, ragged) for _ in range(2))
    run(one, windows, tmp_path / "one")
    run(other, windows, tmp_path / "other", every=None)
    expected = state(other)
    assert not [name for name, value in state(one).items() if not torch.equal(value, expected[name])]


def test_features_that_fire_are_left_alone(
    gpt2: LanguageModel, windows: TokenWindows, make_suite: Make, ragged: Make, tmp_path: Path
) -> None:
    one, other = (silenced(gpt2, make_suite, ragged) for _ in range(2))
    run(one, windows, tmp_path / "one", after=10**6)
    run(other, windows, tmp_path / "other", every=None)
    expected = state(other)
    assert not [name for name, value in state(one).items() if not torch.equal(value, expected[name])]


@pytest.mark.parametrize(("accumulate", "at"), [(1, 10), (1, 8), (2, 19)], ids=str)
def test_an_interrupted_and_resumed_run_lets_in_the_same_features(
    gpt2: LanguageModel,
    windows: TokenWindows,
    make_suite: Make,
    ragged: Make,
    tmp_path: Path,
    accumulate: int,
    at: int,
) -> None:
    """To the bit, killed between two rounds (10 and 19: after steps 10 and 9) and right behind one (8)."""
    whole, halves, rest = (silenced(gpt2, make_suite, ragged) for _ in range(3))
    run(whole, windows, tmp_path / "whole", accumulate)
    with pytest.raises(Interrupted):
        run(halves, windows, tmp_path / "halves", accumulate, between_steps(at))
    assert torch.load(tmp_path / "halves" / CHECKPOINT, weights_only=True)["global_step"] == at // accumulate
    run(rest, windows, tmp_path / "halves", accumulate)
    expected = state(whole)
    assert not [name for name, value in state(rest).items() if not torch.equal(value, expected[name])]
