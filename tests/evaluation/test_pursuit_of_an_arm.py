"""What a search over the same dictionaries would leave, beside what they leave."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from scae.dictionaries import pursue
from scae.evaluation import Arm, Pursuit, evaluate
from scae.lm import LanguageModel, Trace
from scae.suite import Suite

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def gpt2(build_tiny: Make) -> LanguageModel:
    return build_tiny("gpt2").lm


def traces(lm: LanguageModel) -> Iterator[Trace]:
    tokens = torch.randint(40, (4, 6), generator=torch.Generator().manual_seed(3))
    live = torch.ones(4, 6, dtype=torch.bool)
    live[:, 0] = False
    for rows in (slice(0, 3), slice(3, 4)):
        yield lm.trace(tokens[rows], live[rows])


@pytest.mark.parametrize("activation", ["topk", "relu"])
def test_its_numbers_are_those_of_the_whole_text(gpt2: LanguageModel, make_suite: Make, activation: str) -> None:
    """As many features as the encoder's at each token, or fewer; FVU over the mean of the text."""
    suite: Suite = make_suite(gpt2, activation=activation, seed=2)
    other: Suite = make_suite(gpt2, activation=activation, seed=3)
    arms = [Arm("plain", suite, "plain"), Arm("dense", other, "dense")]
    observer = Pursuit("plain", method="gradient", steps=5)
    metrics = evaluate(gpt2, arms, lambda: traces(gpt2), [observer])
    alone = evaluate(gpt2, arms, lambda: traces(gpt2))
    assert {key: metrics[key] for key in alone} == alone, "nothing else changes"
    fvus = []
    for site in suite.sites:
        targets, errors, fired, counts = [], 0.0, 0, 0
        for trace in traces(gpt2):
            own = suite(trace, mode="plain").codes[site]
            target, live = trace.outputs[site.module].flatten(0, 1), trace.live.flatten()
            k = torch.bincount(own.row[own.value > 0], minlength=len(live))
            code = pursue(suite[site], target, live, method="gradient", k=k, steps=5)
            assert (code.crow.diff() <= k).all()
            errors += float((target - suite[site].decode(code).detach())[live].square().sum())
            fired, counts = fired + len(code.value), counts + int(live.sum())
            targets.append(target[live])
        y = torch.cat(targets)
        fvus.append(errors / float((y - y.mean(0)).square().sum()))
        assert metrics[f"pursuit/fvu/{site}"] == pytest.approx(fvus[-1], rel=1e-9)
        assert metrics[f"pursuit/l0/{site}"] == fired / counts <= metrics[f"plain/l0/{site}"]
    assert metrics["pursuit/fvu_mean"] == pytest.approx(sum(fvus) / len(fvus), rel=1e-9)
    assert metrics["pursuit/fvu_mean"] < metrics["plain/fvu_mean"], "of random encoders any search is better"
