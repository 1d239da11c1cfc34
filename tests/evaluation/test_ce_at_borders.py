"""The cross-entropy around borders: by hand, window for window; and what a model from elsewhere is warned about."""

import logging
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from scae.data import TokenWindows
from scae.evaluation.borders import ce_at_borders
from scae.evaluation.clean import clean_ce
from scae.evaluation.unigram import warn_if_no_better
from scae.lm import LanguageModel, Trace

BOS, SEPARATOR, CONTEXT = 1, 3, 9
DOCUMENTS = [[7, 8, 9, 10, 11, 12], [20, 21], [30, 31, 32, 33, 34, 35, 36, 37, 38, 39], [5, 6, 5, 6, 5, 6, 5]]


@pytest.fixture(params=[True, False], ids=["bos", "no bos"])
def reader(request: pytest.FixtureRequest, lm: LanguageModel) -> LanguageModel:
    return LanguageModel(lm.bridge, SimpleNamespace(bos_token_id=BOS), lm.paths, bos=request.param)


def by_hand(lm: LanguageModel, separator: int | None, attend_across: bool) -> float:
    room = CONTEXT - lm.bos - 1
    between = [] if separator is None else [separator]
    losses = []
    for number, (before, after) in enumerate(pairwise(DOCUMENTS), 1):
        first = before[-(room * number // len(DOCUMENTS)) :]
        second = after[: room - room * number // len(DOCUMENTS)]
        window = [BOS] * lm.bos + first + between + second
        border = lm.bos + len(first)
        numbers = [0] * lm.bos + [1] * len(first) + [2] * len(between + second)
        trace = lm.trace(torch.tensor([window]), documents=None if attend_across else torch.tensor([numbers]))
        logp = lm.paths.logits(trace.stream(lm.paths.modules)).log_softmax(-1)[0]
        text = [(at, at + 1) for at in range(lm.bos, border - 1)]
        text += [(at, at + 1) for at in range(border + len(between), len(window) - 1)]
        losses += [-float(logp[at, window[then]]) for at, then in text if then != border - 1]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("attend_across", [True, False])
@pytest.mark.parametrize("separator", [None, SEPARATOR])
def test_every_window_has_a_border_and_only_common_text_is_scored(
    reader: LanguageModel, separator: int | None, attend_across: bool
) -> None:
    ours = [
        ce_at_borders(reader, DOCUMENTS, separator, context=CONTEXT, attend_across=attend_across, batch_size=size)
        for size in (1, 2, 8)
    ]
    assert ours == pytest.approx([by_hand(reader, separator, attend_across)] * 3, rel=1e-6)


def test_what_is_before_a_border_decides_what_is_predicted_after_it(reader: LanguageModel) -> None:
    seen = {
        (separator, across): ce_at_borders(
            reader, DOCUMENTS, separator, context=CONTEXT, attend_across=across, batch_size=4
        )
        for separator in (None, SEPARATOR, 4)
        for across in (True, False)
    }
    assert len({round(ce, 6) for ce in seen.values()}) == 6


def test_the_models_own_cross_entropy(lm: LanguageModel, trace: Trace) -> None:
    logp = lm.bridge(trace.tokens).log_softmax(-1)
    losses = [
        -float(logp[row, at, trace.tokens[row, at + 1]])
        for row in range(len(trace.tokens))
        for at in range(trace.tokens.shape[1] - 1)
        if trace.live[row, at] and trace.live[row, at + 1]
    ]
    assert clean_ce(lm, [trace, trace]) == pytest.approx(sum(losses) / len(losses), rel=1e-6)


@pytest.mark.parametrize("knows", [True, False])
def test_a_model_that_is_worse_than_the_frequencies_is_named(
    build_tiny: Any, caplog: pytest.LogCaptureFixture, knows: bool
) -> None:
    """Text drawn from the model itself, and text drawn without it."""
    lm = build_tiny("gpt2").lm
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, 40, (64, 16), generator=generator)
    if knows:
        for at in range(15):
            likely = lm.bridge(tokens[:, : at + 1])[:, -1].detach().softmax(-1)
            tokens[:, at + 1] = likely.multinomial(1, generator=generator)[:, 0]
    windows = TokenWindows(tokens=tokens.int(), lengths=torch.full((64,), 16).int(), bos=False)

    def traces() -> Iterator[Trace]:
        yield lm.trace(*windows.batch(range(64)))

    with caplog.at_level(logging.WARNING):
        warn_if_no_better(lm, windows, traces)
    assert [record.message.split(":")[0] for record in caplog.records] == (
        [] if knows else ["the model predicts the training text no better than the frequencies of its tokens do"]
    )
