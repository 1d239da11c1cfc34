"""Which sites learn slower, and how much: a share of variance, computed by hand."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from scae.lm import LanguageModel, Trace
from scae.sites import Site
from scae.suite import Mode, Suite
from scae.training import left_to_learn
from scae.training.settled import LEAST

Make = Callable[..., Any]


@pytest.fixture
def suite(lm: LanguageModel, make_suite: Make, ragged: Make) -> Suite:
    suite: Suite = make_suite(lm)
    suite.connect(ragged(suite.layout))
    return suite


def shares(suite: Suite, trace: Trace, mode: Mode) -> dict[Site, float]:
    """What each site leaves unexplained."""
    with torch.no_grad(), suite.inference():
        out = suite(trace, mode)
    found = {}
    for site in suite.sites:
        target, wrote = trace.outputs[site.module][trace.live], out.outputs[site.module][trace.live]
        found[site] = float((target - wrote).square().sum() / (target - target.mean(0)).square().sum())
    return found


@pytest.mark.parametrize("mode", ["plain", "dense", "pruned"])
def test_the_rate_goes_with_what_the_pass_leaves_unexplained(suite: Suite, trace: Trace, mode: Mode) -> None:
    expected = shares(suite, trace, mode)
    limit = sorted(expected.values())[len(expected) // 2]  # half of the sites are below
    found = left_to_learn(suite, trace, mode, fvu=limit)
    assert found == pytest.approx({site: share / limit for site, share in expected.items() if share < limit})
    assert 0 < len(found) < len(suite.sites)


def test_passes_differ(suite: Suite, trace: Trace) -> None:
    assert left_to_learn(suite, trace, "plain", fvu=1e3) != left_to_learn(suite, trace, "pruned", fvu=1e3)


def test_nothing_slows_down_where_all_is_left_to_learn(suite: Suite, trace: Trace) -> None:
    assert left_to_learn(suite, trace, "pruned", fvu=1e-6) == {}


def test_no_site_stands_still(suite: Suite, trace: Trace) -> None:
    found = left_to_learn(suite, trace, "pruned", fvu=1e9)
    assert found == dict.fromkeys(suite.sites, LEAST)


def test_a_module_that_always_writes_the_same_is_no_reason(suite: Suite, trace: Trace) -> None:
    """Its variance is 0, so no share of it is small."""
    site = suite.sites[0]
    same = torch.ones_like(trace.outputs[site.module])
    constant = replace(trace, outputs=trace.outputs | {site.module: same})
    assert site not in left_to_learn(suite, constant, "plain", fvu=1e9)
