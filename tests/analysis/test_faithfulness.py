"""Interventions on tiny models in float64: what is exact, what is nothing, and that all of it is counted right."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch

from scae.analysis.faithfulness import effects
from scae.analysis.foretold import agreement, by_distance, by_pair
from scae.config import Connectivity
from scae.connections import Connections, Inputs
from scae.lm import LanguageModel, Module, Trace
from scae.selection import choose
from scae.sites import Site
from scae.suite import Suite

Make = Callable[..., Any]
Traces = Callable[[], Iterator[Trace]]


def test_what_an_edge_says_is_exact_where_nothing_stands_between(suite: Suite, two_batches: Traces) -> None:
    found = effects(suite, two_batches, edges=200)
    adjacent = [one for one in found if one.distance == 1]
    assert adjacent
    for one in adjacent:
        assert len(one.predicted) > 10
        torch.testing.assert_close(one.frozen, one.predicted, rtol=1e-8, atol=1e-10)
        assert not torch.allclose(one.live, one.predicted, rtol=1e-3), "scales and patterns react"
    further = [one for one in found if one.distance > 1]
    assert all(not torch.allclose(one.frozen, one.predicted, rtol=1e-3) for one in further), "modules between react"
    assert {one.distance for one in found} == set(range(1, len(suite.lm.paths.levels)))


def test_every_pair_that_has_connections_is_tried(suite: Suite, two_batches: Traces) -> None:
    found = effects(suite, two_batches, edges=10**6)
    levels = {module: number for number, level in enumerate(suite.lm.paths.levels) for module in level}
    pairs = [(up, down) for down in suite.sites for up in suite.layout.upstream(down)]
    assert [(one.up, one.down) for one in found] == pairs
    for one in found:
        assert one.distance == levels[one.down.module] - levels[one.up.module]
        codes = [trace and suite(trace, mode="plain").codes[one.up] for trace in two_batches()]
        fires = torch.stack([code.fired() for code in codes]).any(0)
        start, size = suite.layout.offset(one.up), suite.layout.size(one.up)
        up = suite.connections[one.down].up.long() - start
        up = up[(up >= 0) & (up < size)]
        assert one.edges == int(fires[up].sum()) == len(one.predicted)


def brute_force(suite: Suite, trace: Trace, up: Site, j: int, down: Site, i: int, t: int) -> torch.Tensor:
    """The change of the pre-activation of i at every query of window 0, by a hook on the model and the plain pass."""
    code = suite(trace, mode="plain").codes[up].dense()
    row = suite[up].decoder.W[j].detach() * suite[up].writes.scale * code[t, j]

    def put(seen: list[torch.Tensor], added: bool, module: Module, read: Any, wrote: torch.Tensor) -> torch.Tensor:
        if module == down.module:
            seen.append(wrote if read is None else read)
        if added and module == up.module:
            wrote = wrote.clone()
            wrote[0, t] += row
        return wrote

    pre = []
    for added in (True, False):
        seen: list[torch.Tensor] = []
        suite.lm.splice(trace, partial(put, seen, added), readers={down.module} if down.transcoder else set())
        pre.append(suite[down].encoder.preactivations(suite[down].shift(seen[0][0]))[:, i])
    return (pre[0] - pre[1]).detach()


def test_against_a_hook_and_the_encoder(suite: Suite, lm: LanguageModel) -> None:
    """One edge, one token at which its feature fires: the change is there, at the query with the largest prediction."""
    tokens = torch.randint(40, (1, 6), generator=torch.Generator().manual_seed(2))
    live = torch.ones_like(tokens, dtype=torch.bool)
    live[:, 0] = False
    trace, seen = lm.trace(tokens, live), 0
    codes = suite(trace, mode="plain").codes
    for down in suite.sites:
        for up in suite.layout.upstream(down):
            once = [j for j in range(suite.layout.size(up)) if int((codes[up].col == j).sum()) == 1]
            for j in once[:1]:
                pairs = Inputs.from_pairs(
                    torch.tensor([3]), torch.tensor([suite.layout.offset(up) + j]), suite.layout.size(down)
                )
                (one,) = effects(suite, lambda: [trace], connections=Connections(suite.layout, {down: pairs}))
                t = int(codes[up].row[codes[up].col == j])
                change = brute_force(suite, trace, up, j, down, 3, t)
                assert float((change - one.live[0]).abs().min()) < 1e-10
                if not suite.path(down).moves:
                    assert float(one.live[0]) == pytest.approx(float(change[t]), abs=1e-10)
                seen += 1
    assert seen > 2


def test_an_edge_without_weight_foretells_nothing(suite: Suite, two_batches: Traces) -> None:
    """And where nothing else leads from the one to the other, nothing moves."""
    up, down = suite.sites[0], suite.sites[-1]
    suite[down].encoder.W.data[2] = 0
    pairs = Inputs.from_pairs(torch.full((9,), 2), suite.layout.offset(up) + torch.arange(9), suite.layout.size(down))
    found = effects(suite, two_batches, connections=Connections(suite.layout, {down: pairs}))
    (one,) = found
    assert len(one.predicted)
    assert all((x == 0).all() for x in (one.predicted, one.live, one.frozen))
    (row,) = by_distance(found)
    assert (row["rank"], row["r2"], row["slope"], row["sign"]) == (None, None, None, None)


def test_a_step_twice_as_large_is_foretold_to_do_twice_as_much(suite: Suite, two_batches: Traces) -> None:
    small, large = (effects(suite, two_batches, step=step) for step in (1e-3, 2e-3))
    for one, other in zip(small, large, strict=True):
        torch.testing.assert_close(other.predicted, 2 * one.predicted)
        torch.testing.assert_close(other.live, 2 * one.live, rtol=0.1, atol=float(1e-2 * one.live.abs().max()))


def test_the_batches_that_text_comes_in_change_nothing(suite: Suite, lm: LanguageModel) -> None:
    tokens = torch.randint(40, (4, 6), generator=torch.Generator().manual_seed(3))
    live = torch.ones_like(tokens, dtype=torch.bool)
    live[:, 0] = False
    one, other = (
        effects(suite, lambda size=size: [lm.trace(*p) for p in zip(tokens.split(size), live.split(size), strict=True)])
        for size in (4, 1)
    )
    for ours, theirs in zip(one, other, strict=True):
        for name in ("predicted", "live", "frozen"):
            a, b = (getattr(x, name).sort().values for x in (ours, theirs))
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_features_that_never_fire_are_not_changed(suite: Suite, two_batches: Traces) -> None:
    for site in suite.sites[:-1]:
        suite[site].encoder.b.data[:] = -1e4
    assert [len(one.predicted) for one in effects(suite, two_batches)] == []
    assert by_pair(effects(suite, two_batches)) == []


def test_no_connections_no_rows(suite: Suite, two_batches: Traces) -> None:
    assert by_pair(effects(suite, two_batches, connections=Connections.none(suite.layout))) == []


def test_a_crosslayer_feature_is_changed_wherever_it_writes(build_tiny: Make, make_suite: Make, ragged: Make) -> None:
    lm = build_tiny("neox").lm
    suite = make_suite(lm, sites=[Site(layer, "clt") for layer in range(3)])
    suite.connect(ragged(suite.layout, density=0.8))
    tokens = torch.randint(40, (3, 6), generator=torch.Generator().manual_seed(3))
    live = torch.ones_like(tokens, dtype=torch.bool)
    live[:, 0] = False
    trace = lm.trace(tokens, live)
    found = {(str(one.up), str(one.down)): one for one in effects(suite.eval(), lambda: [trace])}
    one = found["1.clt", "2.clt"]
    torch.testing.assert_close(one.frozen, one.predicted, rtol=1e-8, atol=1e-10)
    for parts in (suite[suite.sites[0]].decoder.further,):
        parts.data[0] *= 50  # what layer 0 writes at the MLP of layer 1
    other = {(str(one.up), str(one.down)): one for one in effects(suite, lambda: [trace])}
    assert not torch.allclose(other["0.clt", "2.clt"].predicted, found["0.clt", "2.clt"].predicted)
    torch.testing.assert_close(other["0.clt", "1.clt"].predicted, found["0.clt", "1.clt"].predicted)


def test_chosen_and_random_connections_give_rows_alike(suite: Suite, two_batches: Traces) -> None:
    config = Connectivity(
        method="contribution", C=6, scope="joint", budget="even", spread=1, weighting="activation", tokens=1,
        chunk_mb=1, path=None,
    )  # fmt: skip
    chosen, _ = choose(config, suite, two_batches, seed=0)
    rows = by_pair(effects(suite, two_batches, connections=chosen, mode="pruned"))
    assert rows
    for row in rows:
        assert row["edges"] <= row["effects"]
        assert row["frozen_rank"] is None or -1 <= row["frozen_rank"] <= 1
        if row["distance"] == 1 and row["effects"] > 2:
            assert row["frozen_r2"] == pytest.approx(1.0)
            assert row["frozen_slope"] == pytest.approx(1.0)
    assert sum(
        row["effects"] for row in by_distance(effects(suite, two_batches, connections=chosen, mode="pruned"))
    ) == sum(row["effects"] for row in rows)


def test_agreement_by_hand() -> None:
    predicted, found = torch.tensor([1.0, 2.0, 3.0, -1.0]), torch.tensor([2.0, 3.0, 9.0, 1.0])
    row = agreement(predicted, found)
    assert row["rank"] == pytest.approx(1.0)
    assert row["slope"] == pytest.approx((2 + 6 + 27 - 1) / 15)
    assert row["sign"] == 0.75
    assert row["r2"] == pytest.approx(1 - (1 + 1 + 36 + 4) / (1.75**2 + 0.75**2 + 5.25**2 + 2.75**2))
    tied = agreement(torch.tensor([0.0, 0.0, 1.0, 2.0]), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert tied["rank"] == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert agreement(predicted[:2], found[:2])["rank"] is None
