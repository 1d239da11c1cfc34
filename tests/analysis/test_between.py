"""What an analysis stores of features to each other, and of its connections."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from scae.analysis import Analysis, Wanted, analyze
from scae.analysis.sparse import Codes
from scae.lm import LanguageModel
from scae.report.analysis_files import BETWEEN, Tables
from scae.sites import SINK, SOURCE
from scae.suite import Suite

Make = Callable[..., Any]


@pytest.fixture
def connected(lm: LanguageModel, make_suite: Make, ragged: Make) -> Suite:
    """Tokens and next tokens are sites beside those that have features with neighbours."""
    suite: Suite = make_suite(lm, activation="relu", ends=(SOURCE, SINK))
    suite.connect(ragged(suite.layout))
    return suite


def dense(analysis: Analysis, site: str) -> np.ndarray:
    codes = analysis.codes(site)
    found = np.zeros((analysis.n_tokens, analysis.n_features(site)))
    row = np.repeat(np.arange(analysis.n_tokens), np.diff(codes["crow"]))
    found[row, codes["feature"]] = codes["value"]
    return found


def test_neighbours_clusters_interventions(lm: LanguageModel, connected: Suite, looker: Make) -> None:
    looking = looker(lm, connected)
    metrics = analyze(looking, Wanted(examples=2, neighbours=3, edges=4, prompts=2, seed=0))
    analysis = Analysis(looking.folder)
    names = list(analysis.site_names)
    fires = {site: dense(analysis, site) > 0 for site in analysis.sites}
    site = analysis.sites[-1]
    tables = analysis.features(site)
    assert set(BETWEEN) <= set(tables.shapes)
    jaccard = {
        (other, j): (fires[site][:, 2] & fires[other][:, j]).sum()
        / max(1, (fires[site][:, 2] | fires[other][:, j]).sum())
        for other in analysis.sites
        for j in range(analysis.n_features(other))
        if (other, j) != (site, 2)
    }
    feature = analysis.feature(site, 2)
    found = [
        (names[number], int(j))
        for number, j in zip(feature["coactive_site"], feature["coactive_feature"], strict=True)
        if number >= 0
    ]
    expected = sorted(jaccard.values(), reverse=True)[: len(found)]
    assert [jaccard[one] for one in found] == pytest.approx(expected)
    assert feature["coactive_jaccard"][: len(found)] == pytest.approx(expected)
    rows = {one: connected[one].decoder.W.detach() for one in connected.sites}
    own = rows[connected.sites[-1]][2]
    cosines = torch.cat([torch.cosine_similarity(other, own[None]) for other in rows.values()])
    assert float(feature["similar_cosine"][0]) == pytest.approx(
        float(cosines.sort(descending=True).values[1]), rel=1e-5
    )
    for cluster in analysis.summary["clusters"]:
        for of, number in cluster["members"]:
            assert int(analysis.feature(of, number)["cluster"]) == cluster["id"]
    told = analysis.summary["faithfulness"]
    assert {(one["up"], one["down"]) for one in told} <= {(a, b) for a in analysis.sites for b in analysis.sites}
    for one in told:
        assert one["edges"] <= 8
        if one["distance"] == 1 and one["frozen_r2"] is not None:
            assert one["frozen_r2"] == pytest.approx(1, abs=1e-4), "what stands next to a module reads it exactly"
    curves = analysis.summary["scalar"]
    assert curves["pruned"]["n"] == curves["random"]["n"]
    assert curves["pruned"]["kl"][0] == pytest.approx(curves["random"]["kl"][0]), "none of either"
    overall = analysis.summary["faithfulness_by_distance"]["all"]
    assert metrics["analysis/faithfulness/rank"] == overall["rank"]
    assert metrics["analysis/scalar_random/log_area"] == curves["random"]["log_area"]
    assert analysis.summary["explained"]["prompts"] == 2
    assert metrics["analysis/explained/completeness"] == analysis.summary["explained"]["completeness"]
    assert "analysis/explained_random/strict_replacement" in metrics


def test_codes_of_a_part_of_the_text(lm: LanguageModel, connected: Suite, looker: Make) -> None:
    looking = looker(lm, connected)
    analyze(looking, Wanted(examples=2, neighbours=1, edges=None, prompts=None, seed=0))
    path = looking.folder / "codes" / "pruned" / f"{connected.sites[0]}.safetensors"
    whole, part = (Codes.stored(Tables(path), n) for n in (looking.text.n_tokens, 20))
    assert (whole.n_tokens, part.n_tokens) == (looking.text.n_tokens, 20)
    assert part.crow.tolist() == whole.crow[:21].tolist()
    for number in range(whole.n_features):
        mine, all_of = (
            {int(t): float(v) for t, v in zip(c.token[run], c.by_feature[run], strict=True)}
            for c in (part, whole)
            for run in [slice(int(c.feature_crow[number]), int(c.feature_crow[number + 1]))]
        )
        assert mine == {token: value for token, value in all_of.items() if token < 20}
