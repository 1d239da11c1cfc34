"""What each token adds to a loss: the parts add up to the term, and a token that is wrong owns what it adds."""

from typing import Any

import pytest
import torch

from scae.objectives import Comparison, Objective, Term
from scae.objectives.terms import CrossEntropy, LogitKl, Recon, Sparsity

TERMS = [
    Recon(weight=1.0, kind="fvu", knee=4.0),
    Recon(weight=1.0, kind="mse", knee=4.0),
    LogitKl(weight=1.0, temperature=2.0),
    CrossEntropy(weight=1.0),
]


@pytest.fixture
def comparison(lm: Any, trace: Any, make_suite: Any) -> Comparison:
    return Comparison(make_suite(lm, activation="relu")(trace, "plain", aux=["penalty"]), trace, lm.paths)


@pytest.mark.parametrize("term", TERMS, ids=["fvu", "mse", "kl", "ce"])
def test_the_parts_add_up_to_the_term(comparison: Comparison, term: Term) -> None:
    with torch.no_grad():
        parts = term.by_token(comparison)
    assert float(sum(part.sum() for part in parts.values())) == pytest.approx(term(comparison).item(), rel=1e-9)
    for part in parts.values():
        assert not part[~comparison.trace.live].any()
        assert (part >= -1e-12).all()


def test_a_squared_error_belongs_to_its_token_and_site(comparison: Comparison) -> None:
    site = list(comparison.out.codes)[1]
    name = f"the reconstruction at {site}"
    ours, target = comparison.out.outputs[site.module], comparison.trace.outputs[site.module]
    error = (ours - target).square().sum(-1)
    part = Recon(weight=1.0, kind="fvu", knee=4.0).by_token(comparison)[name]
    live = comparison.trace.live
    torch.testing.assert_close(part[live] / part[live].sum(), (error[live] / error[live].sum()).detach())


def test_a_divergence_stands_where_the_prediction_is_made(comparison: Comparison) -> None:
    with torch.no_grad():
        part = LogitKl(weight=1.0, temperature=1.0).by_token(comparison)["logit_kl"]
    p, q = comparison.clean_logits.log_softmax(-1), comparison.logits.log_softmax(-1)
    divergences = (p.exp() * (p - q)).sum(-1).detach()
    row, position = comparison.scored.nonzero()[5].tolist()
    assert float(part[row, position]) == pytest.approx(float(divergences[5]) / len(divergences), rel=1e-9)


def test_an_objective_weighs_its_parts_and_leaves_out_what_is_not_split(lm: Any, comparison: Comparison) -> None:
    objective = Objective([Recon(weight=2.0, kind="fvu", knee=4.0), Sparsity(weight=5.0), CrossEntropy(weight=0.5)])
    parts = objective.by_token(comparison.out, comparison.trace, lm.paths)
    terms = objective(comparison.out, comparison.trace, lm.paths).terms
    assert set(parts) == {"ce", *(f"the reconstruction at {site}" for site in comparison.out.codes)}
    total = float(sum(part.sum() for part in parts.values()))
    assert total == pytest.approx(float(2.0 * terms["recon"] + 0.5 * terms["ce"]), rel=1e-9)
