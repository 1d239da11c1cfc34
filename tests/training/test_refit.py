"""Encoder rows against a regression that is written down feature by feature, and what it leaves alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from observing import observed

from scae.config import Refit
from scae.lm import LanguageModel, Trace
from scae.sites import Site
from scae.suite import Mode, Suite, passes
from scae.training import refit

Make = Callable[..., Any]
RIDGE = 0.05


def config(**changes: Any) -> Refit:
    return Refit(**({"tokens": 1, "rounds": 1, "steps": 40, "ridge": RIDGE, "drawn": 0} | changes))


def preactivations(suite: Suite, trace: Trace, mode: Mode) -> dict[Site, torch.Tensor]:
    with torch.no_grad(), suite.inference():
        if mode == "pruned":
            return observed(suite, trace)[0]
        return {
            site: suite[site].encoder.preactivations(suite[site].shift(x.flatten(0, 1)))
            for site, x in passes.true_inputs(suite, trace)
        }


def fires(suite: Suite, site: Site, pre: torch.Tensor, live: torch.Tensor) -> torch.Tensor:
    return suite[site].activation.support(pre, live).mask()


def solved(suite: Suite, trace: Trace, site: Site, *, upstream: Suite) -> torch.Tensor:
    """`[feature, d_in + 1]` from normal equations. What a row reads along its connections is asked for one direction at
    a time: pre-activations are linear in rows and biases. upstream: the suite whose sites before are fitted."""
    live = trace.live.flatten()
    suite.eval()
    plain = preactivations(suite, trace, "plain")[site]
    encoder = upstream[site].encoder
    own = torch.cat([suite[site].encoder.W, suite[site].encoder.b[:, None]], dim=1).detach()
    kept = encoder.W.detach().clone(), encoder.b.detach().clone()
    encoder.W.data.copy_(own[:, :-1])
    encoder.b.data.copy_(own[:, -1])
    known = fires(suite, site, plain, live) | fires(suite, site, preactivations(upstream, trace, "pruned")[site], live)
    columns = []
    for direction in torch.eye(own.shape[1], dtype=own.dtype):
        encoder.W.data.copy_(direction[:-1].expand_as(encoder.W))
        encoder.b.data.fill_(direction[-1])
        columns.append(preactivations(upstream, trace, "pruned")[site])
    encoder.W.data.copy_(kept[0])
    encoder.b.data.copy_(kept[1])
    x = torch.stack(columns, dim=-1)  # [token, feature, d_in + 1]
    found = own.clone()
    for i in range(len(own)):
        at = known[:, i]
        a, weight = x[at, i], RIDGE * at.sum() + 1e-3
        identity = torch.eye(a.shape[1], dtype=a.dtype)
        found[i] += torch.linalg.solve(a.T @ a + weight * identity, a.T @ (plain[at, i] - a @ own[i]))
    return found


@pytest.fixture(params=["topk", "relu", "jumprelu", "gated", "batchtopk"])
def suite(request: pytest.FixtureRequest, lm: LanguageModel, make_suite: Make, ragged: Make) -> Suite:
    suite = make_suite(lm, activation=request.param)
    suite.connect(ragged(suite.layout))
    return suite.eval()


def test_the_rows_are_those_of_the_normal_equations(
    lm: LanguageModel, suite: Suite, make_suite: Make, ragged: Make, trace: Trace, request: pytest.FixtureRequest
) -> None:
    before = make_suite(lm, activation=request.node.callspec.params["suite"])
    before.connect(ragged(before.layout))
    told = refit(suite, trace, "pruned", config(), seed=0)
    for site in suite.sites:
        if site not in told:
            assert not suite.layout.upstream(site)
            assert torch.equal(suite[site].encoder.W, before[site].encoder.W)
            continue
        expected = solved(before, trace, site, upstream=suite)
        torch.testing.assert_close(suite[site].encoder.W, expected[:, :-1], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(suite[site].encoder.b, expected[:, -1], rtol=1e-5, atol=1e-6)
        assert told[site].after < told[site].before


def test_what_misses_nothing_stays_as_it_is(suite: Suite, trace: Trace) -> None:
    """The plain pass reads the true inputs, wherever the sites are."""
    before = {site: suite[site].encoder.W.detach().clone() for site in suite.sites}
    told = refit(suite, trace, "plain", config(steps=3), seed=0)
    for site, rows in before.items():
        torch.testing.assert_close(suite[site].encoder.W, rows)
    assert all(one.before == pytest.approx(0, abs=1e-20) for one in told.values())


def test_a_feature_without_tokens_stays_as_it_is(
    lm: LanguageModel, make_suite: Make, ragged: Make, trace: Trace
) -> None:
    suite = make_suite(lm)
    suite.connect(ragged(suite.layout))
    last = suite.sites[-1]
    suite[last].encoder.b.data[5] = -1e4
    row = suite[last].encoder.W[5].detach().clone()
    refit(suite, trace, "pruned", config(rounds=2), seed=0)
    assert torch.equal(suite[last].encoder.W[5], row)
    assert suite[last].encoder.b[5].item() == -1e4


def test_drawn_tokens_hold_down_what_would_fire_elsewhere(suite: Suite, trace: Trace) -> None:
    """With every feature at every token it is the regression of all: with a bias, its errors have mean 0."""
    plain = preactivations(suite, trace, "plain")
    live = trace.live.flatten()
    refit(suite, trace, "pruned", config(drawn=10**6, ridge=0.0), seed=0)
    first = next(site for site in suite.sites if suite.layout.upstream(site))
    error = (preactivations(suite, trace, "pruned")[first] - plain[first])[live]
    assert float(error.mean(0).abs().max()) < 1e-3 * float(plain[first][live].std())


def test_the_dense_pass_is_fitted_to_what_it_reads(lm: LanguageModel, make_suite: Make, trace: Trace) -> None:
    suite = make_suite(lm).eval()
    told = refit(suite, trace, "dense", config(drawn=4), seed=0)
    assert set(told) == {site for site in suite.sites if suite.layout.upstream(site)}
    assert all(one.after < one.before for one in told.values())
    again = make_suite(lm).eval()
    assert refit(again, trace, "dense", config(drawn=4), seed=0) == told
    assert all(torch.equal(suite[site].encoder.W, again[site].encoder.W) for site in suite.sites)


def test_parts_of_the_tokens_are_the_whole(lm: LanguageModel, make_suite: Make, ragged: Make, trace: Trace) -> None:
    whole, parts = make_suite(lm).eval(), make_suite(lm).eval()
    for suite in (whole, parts):
        suite.connect(ragged(suite.layout))
    parts.chunk_mb = 0
    for suite in (whole, parts):
        refit(suite, trace, "pruned", config(steps=4), seed=0)
    for site in whole.sites:
        torch.testing.assert_close(whole[site].encoder.W, parts[site].encoder.W)
