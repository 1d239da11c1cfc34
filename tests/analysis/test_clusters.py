"""Groups that were put into the codes are found again, whatever the order of everything."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from scae.analysis.clusters import _markov, cluster
from scae.analysis.coactivation import coactive
from scae.sites import Site

Make = Callable[..., Any]
ONE, TWO = Site.parse("0.attn"), Site.parse("0.mlp")
GROUPS = [{(ONE, 0), (ONE, 3), (TWO, 1), (TWO, 2)}, {(ONE, 1), (TWO, 0), (TWO, 4)}, {(ONE, 5), (TWO, 5)}]
N = 400


def planted() -> dict[Site, torch.Tensor]:
    """Each group fires at its own tokens, every member at most of them; `(ONE, 2)` never, the others at random."""
    generator = torch.Generator().manual_seed(0)
    dense = {site: torch.zeros(N, 7, dtype=torch.float64) for site in (ONE, TWO)}
    for number, group in enumerate(GROUPS):
        for site, feature in sorted(group, key=str):
            fires = (torch.arange(N) % 10 == number) & (torch.rand(N, generator=generator) < 0.9)
            dense[site][:, feature] = fires * (0.5 + torch.rand(N, generator=generator))
    for site, feature in ((ONE, 4), (ONE, 6), (TWO, 3), (TWO, 6)):
        dense[site][:, feature] = (torch.rand(N, generator=generator) < 0.1) * 1.0
    return dense


def found(as_codes: Make, dense: dict[Site, torch.Tensor], **more: Any) -> Any:
    codes = as_codes(dense)
    return cluster(codes, coactive(codes, n_live=N), **more)


def test_planted_groups_are_found(as_codes: Make) -> None:
    labels, clusters = found(as_codes, planted())
    assert [set(one.members) for one in clusters] == GROUPS, "the largest first"
    for number, group in enumerate(GROUPS):
        assert all(int(labels[site][feature]) == number for site, feature in group)
    alone = [(ONE, 2), (ONE, 4), (ONE, 6), (TWO, 3), (TWO, 6)]
    assert all(int(labels[site][feature]) == -1 for site, feature in alone)
    record = clusters[0].record(members=2)
    assert (record["id"], record["size"], len(record["members"])) == (0, 4, 2)


def test_examples_are_where_most_members_fire(as_codes: Make) -> None:
    dense = planted()
    _, clusters = found(as_codes, dense, examples=5)
    for one in clusters:
        firing = torch.stack([dense[site][:, feature] > 0 for site, feature in one.members]).sum(0)
        assert sorted(firing[one.examples].tolist(), reverse=True) == firing.topk(5).values.tolist()
        strength = torch.stack([(v := dense[site][:, feature]) / v.max() for site, feature in one.members]).sum(0)
        expected = sorted(range(N), key=lambda t: (-int(firing[t]), -float(strength[t]), t))[:5]
        assert one.examples == expected


def test_no_two_examples_from_one_window(as_codes: Make) -> None:
    window = torch.arange(N) // 100
    _, clusters = found(as_codes, planted(), window=window)
    assert all(sorted(window[one.examples].tolist()) == [0, 1, 2, 3] for one in clusters)


def test_order_changes_nothing(as_codes: Make) -> None:
    dense = planted()
    labels, _ = found(as_codes, dense)
    generator = torch.Generator().manual_seed(1)
    order = {site: torch.randperm(7, generator=generator) for site in dense}
    tokens = torch.randperm(N, generator=generator)
    moved, _ = found(as_codes, {site: dense[site][tokens][:, order[site]] for site in (TWO, ONE)})
    together = [torch.cat([labels[s][order[s]] for s in (ONE, TWO)]), torch.cat([moved[s] for s in (ONE, TWO)])]
    same = [(one[:, None] == one) & (one[:, None] >= 0) for one in together]
    assert torch.equal(*same)


def test_rare_features_and_weak_ties_are_left_alone(as_codes: Make) -> None:
    dense = {ONE: torch.zeros(N, 3, dtype=torch.float64)}
    dense[ONE][7, :2] = 1.0
    assert found(as_codes, dense)[1] == []
    assert [one.members for one in found(as_codes, dense, rare=1)[1]] == [[(ONE, 0), (ONE, 1)]]
    assert found(as_codes, planted(), least=1.01)[1] == []


def test_two_dense_groups_with_one_bridge_come_apart() -> None:
    """What connected components would not do."""
    n = 8
    weight = np.zeros((n, n))
    weight[:4, :4] = weight[4:, 4:] = 0.8
    weight[3, 4] = weight[4, 3] = 0.25
    np.fill_diagonal(weight, 1.0)
    col, row = weight.T.nonzero()
    crow = np.concatenate([[0], np.cumsum((weight > 0).sum(0))])
    crow, row = _markov(crow, row.astype(np.int64), weight[row, col], 2.0)
    ends = [set(row[crow[j] : crow[j + 1]].tolist()) for j in range(n)]
    assert all(end <= set(range(4)) for end in ends[:4])
    assert all(end <= set(range(4, 8)) for end in ends[4:])
    assert pytest.approx(1.0) == weight[0, 0]
