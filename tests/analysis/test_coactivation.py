"""Jaccard, correlation and PMI of all pairs, against their definitions on dense matrices."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from scae.analysis.coactivation import coactive
from scae.analysis.sparse import Codes
from scae.kernels import SparseCode
from scae.sites import Site

Make = Callable[..., Any]
SIZES = {Site.parse("0.attn"): 9, Site.parse("0.mlp"): 14, Site.parse("1.mlp"): 5}
N, TOP = 60, 6
LIVE = torch.arange(N) % 5 != 0


def measures(dense: dict[Site, torch.Tensor]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of all pairs over live tokens: `[feature, feature]` each, NaN where they have no value."""
    f = torch.cat(list(dense.values()), dim=1)[LIVE].numpy()
    fires = (f > 0).astype(float)
    both, n = fires.T @ fires, fires.sum(0)
    with np.errstate(all="ignore"):
        jaccard = both / (n[:, None] + n - both)
        pmi = np.log(len(f) * both / np.outer(n, n))
        correlation = np.corrcoef(f.T)
    return jaccard, correlation, pmi


def test_against_dense_matrices(dense_codes: Make, as_codes: Make) -> None:
    dense = dense_codes(SIZES, N)
    found = coactive(as_codes(dense), n_live=int(LIVE.sum()), top=TOP)
    jaccard, correlation, pmi = measures(dense)
    starts = np.cumsum([0, *SIZES.values()])
    for k, site in enumerate(SIZES):
        own = found[site]
        for i in range(SIZES[site]):
            row = starts[k] + i
            others = [j for j in range(starts[-1]) if j != row and jaccard[row, j] > 0]
            expected = sorted(others, key=lambda j: (-jaccard[row, j], -correlation[row, j], j))[:TOP]
            near = [j for j in range(TOP) if own.site[i, j] >= 0]
            assert [int(starts[int(own.site[i, j])] + own.feature[i, j]) for j in near] == expected
            for values, whole in ((own.jaccard, jaccard), (own.correlation, correlation), (own.pmi, pmi)):
                assert values[i, : len(near)].numpy() == pytest.approx(whole[row, expected], rel=1e-5, abs=1e-6)
                assert values[i, len(near) :].isnan().all()
        assert (own.feature[0] == -1).all(), "a feature that never fires has no company"


def test_pairs_see_each_other_alike(dense_codes: Make, as_codes: Make) -> None:
    found = coactive(as_codes(dense_codes(SIZES, N)), n_live=int(LIVE.sum()), top=sum(SIZES.values()))
    sites, seen = list(SIZES), {}
    for k, site in enumerate(sites):
        own = found[site]
        for i, j in (own.site >= 0).nonzero().tolist():
            values = tuple(round(float(x[i, j]), 5) for x in (own.jaccard, own.correlation, own.pmi))
            seen[(k, i), (int(own.site[i, j]), int(own.feature[i, j]))] = values
    assert seen
    assert all(seen[other, one] == values for (one, other), values in seen.items())


def test_the_order_of_tokens_and_features_changes_nothing(dense_codes: Make, as_codes: Make) -> None:
    dense = dense_codes(SIZES, N)
    found = coactive(as_codes(dense), n_live=int(LIVE.sum()), top=TOP)
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randperm(N, generator=generator)
    order = {site: torch.randperm(size, generator=generator) for site, size in SIZES.items()}
    other = {site: value[tokens][:, order[site]] for site, value in dense.items()}
    moved = coactive(as_codes(other), n_live=int(LIVE.sum()), top=TOP)
    for site in SIZES:
        torch.testing.assert_close(moved[site].jaccard, found[site].jaccard[order[site]], equal_nan=True)
        torch.testing.assert_close(moved[site].pmi, found[site].pmi[order[site]], equal_nan=True)


def test_the_unit_of_activations_changes_nothing(dense_codes: Make, as_codes: Make) -> None:
    dense = dense_codes(SIZES, N)
    ours, theirs = (
        coactive(as_codes({site: value * factor for site, value in dense.items()}), n_live=48) for factor in (1, 2**9)
    )
    for site in SIZES:
        for name in ("site", "feature", "jaccard", "correlation", "pmi"):
            one, other = getattr(ours[site], name), getattr(theirs[site], name)
            assert torch.equal(one.nan_to_num(-9.0), other.nan_to_num(-9.0)), name


def test_a_site_where_nothing_fires(as_codes: Make) -> None:
    silent, one = Site.parse("0.attn"), Site.parse("0.mlp")
    dense = {silent: torch.zeros(8, 3), one: torch.eye(8)[:, :2].contiguous()}
    found = coactive(as_codes(dense), n_live=8, top=2)
    assert all((found[site].site == -1).all() and found[site].jaccard.isnan().all() for site in dense)


def test_codes_from_either_end() -> None:
    """Entries with the activation 0 only carry a gradient: nothing fires there."""
    dense = torch.tensor([[0.0, 2.0, 1.0], [0.0, 0.0, 0.0], [3.0, 4.0, 0.0]])
    stored = dense > 0
    stored[1, 0] = True
    codes = Codes.of(SparseCode.where(stored, dense))
    assert codes.crow.tolist() == [0, 2, 2, 4]
    assert codes.feature.tolist() == [1, 2, 0, 1]
    assert codes.feature_crow.tolist() == [0, 1, 3, 4]
    assert codes.token.tolist() == [2, 0, 2, 0]
    assert codes.by_feature.tolist() == [3.0, 2.0, 4.0, 1.0]
    assert (codes.n_tokens, codes.n_features) == (3, 3)
