"""Each dictionary by itself in the live model."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from scae.evaluation import Alone, Arm, evaluate
from scae.lm import LanguageModel
from scae.sites import Site
from scae.suite import Suite


def by_hand(lm: LanguageModel, batch: tuple[Any, Any], hook: str, value: torch.Tensor) -> float:
    """The cross-entropy with `value` at one place wherever there is text."""
    tokens, live = batch
    logits = lm.bridge.run_with_hooks(
        tokens, fwd_hooks=[(hook, lambda own, hook: torch.where(live[..., None], value, own))]
    )
    scored = live[:, :-1] & live[:, 1:]
    return float(F.cross_entropy(logits[:, :-1][scored], tokens[:, 1:][scored]).detach())


@pytest.mark.parametrize("site", [Site(0, "resid"), Site(1, "mlp_out")], ids=str)
def test_it_is_the_model_with_one_reconstruction_in_place(
    build_tiny: Callable[[str], SimpleNamespace],
    architecture: str,
    make_suite: Callable[..., Suite],
    batch: tuple[Any, Any],
    site: Site,
) -> None:
    shared = build_tiny(architecture).lm
    lm = LanguageModel(shared.bridge, shared.tokenizer, shared.paths, bos=shared.bos)
    other = Site(1, "resid") if site.kind == "resid" else Site(0, "mlp_out")
    for one in (site, other):
        lm.watch(one.module)
    suite = make_suite(lm, sites=[site, other])
    arms = [Arm("plain", suite, "plain"), Arm("spliced", suite, "spliced")]
    metrics = evaluate(lm, arms, lambda: [lm.trace(*batch)], [Alone(suite)])
    trace = lm.trace(*batch)
    clean = trace.outputs[site.module]
    rebuilt = suite(trace, mode="plain").outputs[site.module]
    ours, zero = (by_hand(lm, batch, site.module.hook_out, value) for value in (rebuilt, torch.zeros_like(clean)))
    model = by_hand(lm, batch, site.module.hook_out, clean)
    assert metrics["lm/ce"] == pytest.approx(model, rel=1e-9)
    assert metrics[f"alone/ce_diff/{site}"] == pytest.approx(ours - model, rel=1e-7)
    assert metrics[f"alone/ce_recovered/{site}"] == pytest.approx((zero - ours) / (zero - model), rel=1e-7)
    assert metrics[f"alone/kl/{site}"] > 0
    assert ("plain/ce" in metrics) == site.module.writes
    assert metrics["spliced/ce"] > 0
