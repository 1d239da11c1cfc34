"""What a search over the same dictionaries would leave, beside what they leave."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from scae.core.typing import Tensor
from scae.dictionaries import Dictionary, pursue, refine
from scae.evaluation import Arm, Pursuit, evaluate
from scae.kernels import SparseCode
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


def error_of(dictionary: Dictionary, code: SparseCode, target: Tensor) -> Tensor:
    return (target - dictionary.decode(code).detach()).square().sum(1)


@pytest.mark.parametrize("activation", ["topk", "relu"])
def test_its_numbers_are_those_of_the_whole_text(gpt2: LanguageModel, make_suite: Make, activation: str) -> None:
    """As many features as the encoder's at each token, or fewer, and of what was found and of the encoder's own code,
    refined, the one that leaves less; FVU over the mean of the text."""
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
            refined = refine(suite[site], own, target, steps=5)
            left = {id(one): error_of(suite[site], one, target) for one in (code, refined, own)}
            assert (left[id(refined)] <= left[id(own)] * (1 + 1e-12)).all()
            better = left[id(code)] <= left[id(refined)]
            errors += float(torch.where(better, left[id(code)], left[id(refined)])[live].sum())
            for one, where in ((code, better), (refined, ~better)):
                assert (one.crow.diff() <= k).all()
                fired += int(one.crow.diff()[live & where].sum())
            counts += int(live.sum())
            targets.append(target[live])
        y = torch.cat(targets)
        fvus.append(errors / float((y - y.mean(0)).square().sum()))
        assert metrics[f"pursuit/fvu/{site}"] == pytest.approx(fvus[-1], rel=1e-9)
        assert metrics[f"pursuit/l0/{site}"] == fired / counts <= metrics[f"plain/l0/{site}"]
    assert metrics["pursuit/fvu_mean"] == pytest.approx(sum(fvus) / len(fvus), rel=1e-9)
    assert metrics["pursuit/fvu_mean"] < metrics["plain/fvu_mean"], "of random encoders any search is better"
