"""A dictionary that is given: its decoder stays to the bit, while an encoder is trained for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fits import objective, run, state

from scae.config import AuxK
from scae.lm import LanguageModel
from scae.training import freeze

Make = Callable[..., Any]


def test_a_frozen_decoder_stays_and_the_encoder_learns(
    gpt2: LanguageModel, windows: Any, make_suite: Make, tmp_path: Path
) -> None:
    """Also with rows that are not of norm 1, while others are kept there, and while dead features are revived."""
    suite = make_suite(gpt2, n_features=24, auxk=AuxK(k=3, dead_after=1))
    before = state(suite)
    freeze(suite, ["decoder"])
    run(suite, windows, tmp_path, loss=objective(auxk=0.1))
    after = state(suite)
    for name, value in after.items():
        learns = ".encoder." in name or name.endswith("tokens_since_fired")
        assert torch.equal(value, before[name]) != learns, name


def test_what_is_not_frozen_learns_as_before(
    gpt2: LanguageModel, windows: Any, make_suite: Make, tmp_path: Path
) -> None:
    """The first step of an encoder does not ask whether the decoder moves, too."""
    gradients = []
    for frozen in ([], ["decoder"]):
        suite = make_suite(gpt2, n_features=24)
        freeze(suite, frozen)
        batch = windows.batch(range(4))
        trace = gpt2.trace(batch.tokens, batch.live)
        objective()(suite(trace, mode="plain"), trace, gpt2.paths).total.backward()
        gradients.append({name: own.grad for name, own in suite.named_parameters() if ".encoder." in name})
    for name, one in gradients[0].items():
        torch.testing.assert_close(one, gradients[1][name], rtol=1e-12, atol=1e-14)
