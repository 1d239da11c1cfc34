"""`trainer.chunk_mb` changes memory and no number: the same features are active, their values and the gradients are
equal up to the rounding of matrix products of another size."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from scae.config import AuxK
from scae.dictionaries.encoder import Encoder
from scae.lm import LanguageModel, Trace
from scae.suite import Mode, Suite, SuiteOutput

Make = Callable[..., Any]
MODES: tuple[Mode, ...] = ("plain", "spliced", "dense", "pruned")


def gradients(suite: Suite, out: SuiteOutput) -> dict[str, torch.Tensor]:
    total = torch.stack([own.square().sum() for own in out.reconstructions.values()]).sum()
    for by_site in out.aux.values():
        total = total + torch.stack([own.square().sum() for own in by_site.values()]).sum()
    suite.zero_grad()
    total.backward()
    return {name: p.grad.clone() for name, p in suite.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("activation", ["relu", "topk", "batchtopk"])
def test_the_size_of_the_parts_changes_no_number(
    build_tiny: Make,
    batch: Any,
    make_suite: Make,
    ragged: Make,
    monkeypatch: pytest.MonkeyPatch,
    activation: str,
    mode: Mode,
    training: bool,
) -> None:
    """At a size of 0 a part is a token, or a window where something arrives along connections. A batch threshold is
    learned from all tokens at once, so that in training BatchTopK is never taken in parts."""
    lm: LanguageModel = build_tiny("gpt2").lm
    trace: Trace = lm.trace(*batch)
    preactivations = Encoder.preactivations
    calls: list[int] = []

    def counting(self: Encoder, u: torch.Tensor, *args: Any) -> torch.Tensor:
        calls.append(len(u))
        return preactivations(self, u, *args)

    monkeypatch.setattr(Encoder, "preactivations", counting)
    found = {}
    for chunk_mb in (None, 0):
        suite = make_suite(lm, activation=activation, auxk=AuxK(k=3, dead_after=100))
        suite.connect(ragged(suite.layout))
        for site in suite.sites:
            suite[site].tokens_since_fired[2:8] = 100
            if activation == "batchtopk":
                suite[site].activation.threshold.fill_(0.3)
        suite.chunk_mb = chunk_mb
        calls.clear()
        out = suite.train(training)(trace, mode, aux=["penalty", "revived"])
        found[chunk_mb] = out, gradients(suite, out), list(calls), suite.state_dict()
    (whole, expected, at_once, state), (parts, ours, in_parts, after) = found[None], found[0]
    assert (len(in_parts) > len(at_once)) == (activation != "batchtopk" or not training)
    assert max(at_once) == trace.live.numel()
    for site in whole.codes:
        code, other = whole.codes[site], parts.codes[site]
        assert len(code.value) > 0
        assert torch.equal(code.crow, other.crow)
        assert torch.equal(code.col, other.col)
        torch.testing.assert_close(code.value, other.value, rtol=1e-12, atol=1e-12)
    assert ("revived" in whole.aux) == training
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-10, atol=1e-10)
    assert all(torch.equal(after[name], value) for name, value in state.items()), "thresholds"
