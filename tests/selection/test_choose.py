"""The choice of connections: which, how many, and the numbers that describe them."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scae.config import ConfigError, Connectivity
from scae.connections import Connections, Inputs, Layout
from scae.lm import LanguageModel, Trace
from scae.selection import choose, describe, mean_contributions, record, shuffled
from scae.sites import Site
from scae.suite import Suite

Make = Callable[..., Suite]


def connectivity(**changes: Any) -> Connectivity:
    values: dict[str, Any] = {
        "method": "contribution",
        "C": 5,
        "scope": "joint",
        "weighting": "activation",
        "tokens": 100,
        "chunk_mb": 1,
        "budget": "even",
        "spread": 4,
        "path": None,
    }
    return Connectivity(**(values | changes))


@pytest.fixture(scope="module")
def suite(lm: LanguageModel, make_suite: Make) -> Suite:
    suite = make_suite(lm).eval()
    suite[suite.sites[0]].encoder.b.data[2] = -1e4  # never fires
    return suite


def chosen(suite: Suite, trace: Trace, seed: int = 0, **changes: Any) -> tuple[Connections, dict[str, float]]:
    return choose(connectivity(**changes), suite, lambda: [trace], seed=seed)


def scores(suite: Suite, trace: Trace, site: Site) -> torch.Tensor:
    rows = slice(0, suite.layout.size(site))
    return mean_contributions(suite, site, rows, record(suite, lambda: [trace], megabytes=1), "activation").abs()


def dense(connections: Connections, site: Site) -> torch.Tensor:
    layout, inputs = connections.layout, connections[site]
    kept = torch.zeros(layout.size(site), layout.n_upstream(site), dtype=torch.bool)
    kept[inputs.down, inputs.up.long()] = True
    return kept


def blocks(layout: Layout, site: Site, scope: str) -> list[slice]:
    if scope == "joint":
        return [slice(0, layout.n_upstream(site))]
    return [slice(layout.offset(up), layout.offset(up) + layout.size(up)) for up in layout.upstream(site)]


@pytest.mark.parametrize("scope", ["joint", "per_site"])
@pytest.mark.parametrize("method", ["random", "contribution"])
@pytest.mark.parametrize("C", [1, 5, 11])
def test_every_feature_gets_its_budget(suite: Suite, trace: Trace, method: str, scope: str, C: int) -> None:
    connections, _ = chosen(suite, trace, method=method, scope=scope, C=C)
    for site in suite.sites:
        if not suite.layout.n_upstream(site):
            assert not len(connections[site])
            continue
        kept = dense(connections, site)
        possible = torch.ones_like(kept) if method == "random" else scores(suite, trace, site) > 0
        expected = sum(possible[:, block].sum(1).clamp(max=C) for block in blocks(suite.layout, site, scope))
        assert torch.equal(kept.sum(1), expected)


@pytest.mark.parametrize("scope", ["joint", "per_site"])
def test_the_choice_is_that_of_the_largest_size(suite: Suite, trace: Trace, scope: str) -> None:
    connections, _ = chosen(suite, trace, scope=scope, C=4)
    for site in suite.sites:
        kept = dense(connections, site)
        for block in blocks(suite.layout, site, scope):
            if block.stop == block.start:
                continue
            for row, mine in zip(scores(suite, trace, site)[:, block], kept[:, block], strict=True):
                best = sorted(range(len(row)), key=lambda j, row=row: -float(row[j]))[:4]
                assert sorted(mine.nonzero()[:, 0].tolist()) == sorted(j for j in best if row[j] > 0)


@pytest.mark.parametrize("scope", ["joint", "per_site"])
def test_a_budget_of_everything_keeps_whatever_contributes(suite: Suite, trace: Trace, scope: str) -> None:
    connections, stats = chosen(suite, trace, scope=scope, C=10_000)
    silent = suite.layout.offset(suite.sites[0]) + 2
    some = False
    for site in suite.sites:
        if suite.layout.n_upstream(site):
            kept = dense(connections, site)
            assert torch.equal(kept, scores(suite, trace, site) != 0)
            assert not kept[:, silent].any()
            some = True
            assert stats[f"connectivity/kept/{site}"] == pytest.approx(1.0, abs=1e-12)
    assert some


@pytest.mark.parametrize("changes", [{"C": 0}, {"C": 0, "method": "random"}, {"method": "none"}])
def test_nothing(suite: Suite, changes: dict[str, Any]) -> None:
    connections, stats = choose(connectivity(**changes), suite, list, seed=0)
    assert connections == Connections.none(suite.layout)
    assert stats["connectivity/edges"] == stats["connectivity/in_degree_max"] == stats["connectivity/density"] == 0


def test_everything(suite: Suite) -> None:
    connections, stats = choose(connectivity(method="all"), suite, list, seed=0)
    assert connections.is_complete
    assert stats["connectivity/density"] == 1.0
    assert stats["connectivity/edges"] == len(connections)


@pytest.mark.parametrize("method", ["contribution", "random"])
def test_no_edge_that_the_architecture_cannot_have(suite: Suite, trace: Trace, architecture: str, method: str) -> None:
    connections, _ = chosen(suite, trace, method=method, C=10_000)
    within_layer = 0
    for site in suite.sites:
        for up in connections[site].up.unique().tolist():
            at, _ = suite.layout.locate(up)
            same = (at.layer, at.kind, site.kind) == (site.layer, "attn", "mlp")
            within_layer += same
            assert at.layer < site.layer or (same and architecture != "neox")
    assert bool(within_layer) == (architecture != "neox")


def test_kept_share(suite: Suite, trace: Trace) -> None:
    connections, stats = chosen(suite, trace, C=3)
    drawn, _ = chosen(suite, trace, C=3, method="random")
    for site in suite.sites:
        if suite.layout.n_upstream(site):
            whole = scores(suite, trace, site)
            share = float(whole[dense(connections, site)].sum() / whole.sum())
            assert stats[f"connectivity/kept/{site}"] == pytest.approx(share, rel=1e-9)
            assert share > 1.5 * float(whole[dense(drawn, site)].sum() / whole.sum())


def test_random_is_a_function_of_the_seed(suite: Suite, trace: Trace) -> None:
    once, again, other = (chosen(suite, trace, method="random", seed=seed)[0] for seed in (3, 3, 4))
    assert once == again
    assert once != other
    last = suite.sites[-1]
    for up in suite.layout.upstream(last):
        start = suite.layout.offset(up)
        assert dense(once, last)[:, start : start + suite.layout.size(up)].any(), f"nothing from {up}"
    rows = dense(once, last)
    assert len({tuple(row.tolist()) for row in rows}) > len(rows) // 2


def rows_one_by_one(suite: Suite, site: Site, megabytes: int, *, tokens: int = 0) -> Any:
    return (slice(i, i + 1) for i in range(suite.layout.size(site)))


@pytest.mark.parametrize("method", ["contribution", "random"])
def test_the_choice_does_not_depend_on_the_chunk(
    suite: Suite, trace: Trace, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once, stats = chosen(suite, trace, method=method)
    module = sys.modules["scae.selection.choose"]  # the package has a function of this name
    monkeypatch.setattr(module, "chunks", rows_one_by_one)
    by_rows, stats_by_rows = chosen(suite, trace, method=method)
    assert by_rows == at_once
    assert stats_by_rows == pytest.approx(stats, rel=1e-9)


def test_from_a_file(suite: Suite, trace: Trace, make_suite: Make, lm: LanguageModel, tmp_path: Path) -> None:
    connections, _ = chosen(suite, trace)
    path = tmp_path / "some.safetensors"
    connections.save(path)
    from_file = connectivity(method="file", path=str(path))
    again, stats = choose(from_file, suite, list, seed=0)
    assert again == connections
    assert stats["connectivity/edges"] == len(connections)

    smaller = make_suite(lm, n_features=6)
    with pytest.raises(ConfigError, match=r"connectivity\.path=.*some\.safetensors"):
        choose(from_file, smaller, list, seed=0)

    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ConfigError, match=r"connectivity\.path=.*some\.safetensors"):
        choose(from_file, suite, list, seed=0)


def test_description_of_a_small_example() -> None:
    attn, mlp, second = Site(0, "attn"), Site(0, "mlp"), Site(1, "attn")
    layout = Layout((attn, mlp, second), (2, 3, 2), reads=(0, 1, 2))
    pairs = {mlp: [(0, 0), (0, 1), (2, 1)], second: [(0, 0), (0, 2), (0, 4), (1, 3)]}
    inputs = {
        site: Inputs.from_pairs(*torch.tensor(listed).T, layout.size(site))  # type: ignore[call-arg]
        for site, listed in pairs.items()
    }
    stats = describe(Connections(layout, inputs))
    assert stats == pytest.approx(
        {
            "connectivity/from/0.mlp/0.attn": 1.0,
            "connectivity/from/1.attn/0.attn": 1 / 4,
            "connectivity/from/1.attn/0.mlp": 3 / 4,
            "connectivity/in_degree_mean": 7 / 5,  # 2 0 1 | 3 1; the features of 0.attn can have none
            "connectivity/in_degree_median": 1.0,
            "connectivity/in_degree_max": 3.0,
            "connectivity/out_degree_mean": 1.0,  # 2 2 | 1 1 1 | 0 0
            "connectivity/out_degree_median": 1.0,
            "connectivity/out_degree_max": 2.0,
            "connectivity/edges": 7.0,
            "connectivity/density": 7 / 16,
        }
    )


def test_shuffled_connections_are_as_many_into_each_feature_and_others(lm: LanguageModel, make_suite: Make) -> None:
    layout = make_suite(lm, n_features=40).layout
    generator = torch.Generator().manual_seed(0)
    inputs = {}
    for site in layout.sites:
        kept = torch.rand(layout.size(site), layout.n_upstream(site), generator=generator) < 0.2
        kept[0], kept[1] = False, True
        inputs[site] = Inputs.from_pairs(*kept.nonzero(as_tuple=True), layout.size(site))
    chosen = Connections(layout, inputs)
    drawn, again, other = (shuffled(chosen, seed=seed) for seed in (0, 0, 1))
    assert drawn == again
    assert drawn != other
    for site in layout.sites:
        assert torch.equal(drawn[site].crow, chosen[site].crow)
    last = layout.sites[-1]
    ends = torch.bincount(drawn[last].up.long(), minlength=layout.n_upstream(last)).double()
    assert ends.min() > 0  # from everywhere upstream
    pairs, chosen_pairs = (set(zip(c[last].down.tolist(), c[last].up.tolist(), strict=True)) for c in (drawn, chosen))
    assert len(pairs & chosen_pairs) / len(pairs) < 0.5
