"""Mean contributions are exact: they are what the pruned pass adds up, connection by connection."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from scae.analysis.contributions import Contributions, constants, edge_list
from scae.evaluation import Arm, walk
from scae.lm import LanguageModel, Trace
from scae.sites import SINK, SOURCE, Site
from scae.suite import Suite

Make = Callable[..., Any]
KINDS: dict[str, tuple[Any, Any]] = {
    "sites": (("attn", "mlp"), ()),
    "ends": (("attn", "mlp"), (SOURCE, SINK)),
    "crosslayer": (("attn", "clt"), ()),
}


@pytest.fixture(params=KINDS)
def suite(lm: LanguageModel, make_suite: Make, ragged: Make, request: pytest.FixtureRequest) -> Suite:
    kinds, ends = KINDS[request.param]
    sites = [Site(layer, kind) for layer in range(lm.paths.n_layers) for kind in kinds]
    suite = make_suite(lm, sites=sites, ends=ends, activation="relu")
    suite.connect(ragged(suite.layout))
    return suite


def summed(lm: LanguageModel, suite: Suite, traces: list[Trace]) -> dict[str, Any]:
    observer = Contributions()
    walk(lm, [Arm("plain", suite, "plain"), Arm("pruned", suite, "pruned")], traces, [observer])
    return observer.sums


def test_contributions_and_the_constant_part_are_the_pre_activation(
    lm: LanguageModel, suite: Suite, trace: Trace
) -> None:
    """In float64; over two batches, the second of which is half of the first."""
    sums = summed(lm, suite, [trace, lm.trace(trace.tokens[:2], trace.live[:2])])
    checked = 0
    for site in suite.sites:
        fired = sums[f"fired/{site}"]
        brought = torch.zeros(len(fired), dtype=torch.float64)
        if suite.layout.upstream(site):
            edges = suite.virtual.edges(site)
            brought.index_add_(0, edges.down.long(), sums[f"edges/{site}"])
            checked += int((sums[f"edges/{site}"] != 0).sum())
        torch.testing.assert_close(brought + sums[f"constant/{site}"], sums[f"total/{site}"], rtol=1e-9, atol=1e-9)
    assert checked > 50


def test_each_is_what_is_lost_without_its_connection(lm: LanguageModel, suite: Suite, trace: Trace) -> None:
    """Against the pass itself: a connection brings its feature what the feature has less when the upstream feature is
    cut out of the code, everything else as it was."""
    sums, found = summed(lm, suite, [trace]), edge_list(suite, summed(lm, suite, [trace]))
    out = suite(trace, mode="pruned")
    codes = out.codes | suite.codes_of_ends(trace)
    dense = {site: code.dense() for site, code in codes.items()}
    layout = suite.layout
    random = np.random.default_rng(0)
    chosen = random.choice(len(found.up), 60, replace=False)
    for number in chosen:
        up_site, down_site = layout.sites[found.up_site[number]], layout.sites[found.down_site[number]]
        up, down = int(found.up[number]), int(found.down[number])
        writes, reads, path = suite.writes(up_site, down_site.module), suite.reads(down_site), suite.path(down_site)
        # the stream that this feature alone writes, read along the path by the encoder row, without biases
        wrote = (dense[up_site][:, up, None] * writes.rows[up] * writes.scale).view(*trace.live.shape, -1)
        read = path.read(wrote, trace) - path.read(torch.zeros_like(wrote), trace)
        brought = (read @ reads.rows[down] / reads.scale).flatten()
        fires = dense[down_site][:, down] > 0
        mean = float(brought[fires].mean()) if fires.any() else float("nan")
        assert found.mean[number] == pytest.approx(mean, rel=1e-5, abs=1e-9, nan_ok=True)
        weights = {(one.site, one.feature): one.weight for one in suite.inputs(down_site, down)}
        assert found.weight[number] == pytest.approx(weights[up_site, up], rel=1e-5)
    assert sums.keys() >= {f"constant/{site}" for site in suite.sites}


def test_the_same_edges_from_both_ends(lm: LanguageModel, suite: Suite, trace: Trace) -> None:
    found = edge_list(suite, summed(lm, suite, [trace]))
    layout = suite.layout
    assert len(found.up) == len(suite.connections)
    seen: dict[bool, set[Any]] = {}
    for inputs in (True, False):
        seen[inputs] = set()
        for number, site in enumerate(layout.sites):
            of = found.of(number, layout.size(site), inputs=inputs)
            assert len(of["_crow"]) == layout.size(site) + 1
            for feature in range(layout.size(site)):
                mine = slice(of["_crow"][feature], of["_crow"][feature + 1])
                means = np.nan_to_num(np.abs(of["_mean"][mine]))
                assert (np.diff(means) <= 0).all()
                for other_site, other in zip(of["_site"][mine], of["_feature"][mine], strict=True):
                    here, there = (number, feature), (int(other_site), int(other))
                    seen[inputs].add((there, here) if inputs else (here, there))
    assert seen[True] == seen[False]
    assert len(seen[True]) == len(suite.connections)


def test_constants_are_means_over_firing_tokens(lm: LanguageModel, suite: Suite, trace: Trace) -> None:
    sums, out = summed(lm, suite, [trace]), suite(trace, mode="pruned")
    wanted: dict[Site, Any] = {}
    suite(trace, meet=lambda r: wanted.update({r.site: r.alone_and_all()}))
    for site in suite.sites:
        fires = out.codes[site].dense() > 0
        for (name, values), dense in zip(constants(site, sums).items(), wanted[site], strict=True):
            assert name.startswith("inputs_")
            for feature in range(len(values)):
                if fires[:, feature].any():
                    mean = float(dense[:, feature][fires[:, feature]].mean())
                    assert values[feature] == pytest.approx(mean, rel=1e-5)
                else:
                    assert np.isnan(values[feature])
