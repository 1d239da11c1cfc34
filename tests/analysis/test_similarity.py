"""Nearest decoder rows against the whole table of cosines, and what units do to the measures."""

from collections.abc import Callable

import pytest
import torch

from scae.analysis.similarity import between, similar
from scae.lm import LanguageModel
from scae.sites import Site
from scae.suite import Suite

Make = Callable[..., Suite]


@pytest.fixture
def suite(lm: LanguageModel, make_suite: Make) -> Suite:
    return make_suite(lm)


def table(suite: Suite) -> torch.Tensor:
    """All cosines, a feature's with itself left out."""
    rows = torch.nn.functional.normalize(torch.cat([suite[site].decoder.W.detach() for site in suite.sites]), dim=1)
    return (rows @ rows.T).fill_diagonal_(-torch.inf)


@pytest.mark.parametrize("chunk_mb", [64, 0])  # 0: a row at a time
def test_the_nearest_of_all_sites(suite: Suite, chunk_mb: int) -> None:
    found, whole = similar(suite, top=5, chunk_mb=chunk_mb), table(suite)
    sizes = [suite.layout.size(site) for site in suite.sites]
    starts = torch.tensor([0, *sizes]).cumsum(0)
    for k, site in enumerate(suite.sites):
        best = whole[starts[k] : starts[k + 1]].topk(5, dim=1)
        torch.testing.assert_close(found[site].cosine.double(), best.values, rtol=1e-6, atol=1e-7)
        assert torch.equal(starts[found[site].site.long()] + found[site].feature, best.indices)
        assert (found[site].site.dtype, found[site].feature.dtype) == (torch.int16, torch.int32)


def test_a_row_of_zeros_has_no_neighbours_and_is_nobodys(suite: Suite) -> None:
    site = suite.sites[1]
    suite[site].decoder.W.data[3] = 0
    found = similar(suite, top=sum(suite.layout.sizes))
    n = sum(suite.layout.sizes)
    assert (found[site].site[3] == -1).all()
    assert (found[site].feature[3] == -1).all()
    assert found[site].cosine[3].isnan().all()
    for other in suite.sites:
        assert not ((found[other].site == 1) & (found[other].feature == 3)).any()
        rest = [i for i in range(suite.layout.size(other)) if (other, i) != (site, 3)]
        assert (found[other].cosine[rest].isnan().sum(1) == 2).all(), f"of {n} features: itself and the empty one"


def test_measures_between_chosen_features(suite: Suite) -> None:
    here, there = suite.sites[0], suite.sites[-1]
    some, others = torch.tensor([2, 5]), torch.tensor([0, 7, 1])
    ours = (suite[here].decoder.W * suite[here].writes.scale)[some].detach()
    theirs = (suite[there].decoder.W * suite[there].writes.scale)[others].detach()
    unit = torch.tensor([float(suite[site].writes.scale) ** 2 for site in suite.sites]).double().mean().sqrt()
    for i in range(2):
        for j in range(3):
            a, b = ours[i], theirs[j]
            expected = {
                "cosine": a @ b / (a.norm() * b.norm()),
                "dot": a @ b / unit**2,
                "euclidean": (a - b).norm() / unit,
            }
            for measure, value in expected.items():
                found = between(suite, (here, some), (there, others), measure=measure)
                torch.testing.assert_close(found[i, j], value, rtol=1e-6, atol=1e-9)
                back = between(suite, (there, others), (here, some), measure=measure)
                torch.testing.assert_close(back.T, found)


def test_no_measure_depends_on_the_unit_of_the_stream(suite: Suite) -> None:
    features = torch.arange(6)
    pair = ((suite.sites[0], features), (suite.sites[1], features))
    measures = ("cosine", "dot", "euclidean")
    before, near = [between(suite, *pair, measure=one) for one in measures], similar(suite)
    for site in suite.sites:
        suite[site].writes.scale *= 2**7
    for one, value in zip(measures, before, strict=True):
        assert torch.equal(between(suite, *pair, measure=one), value)
    assert all(torch.equal(near[site].cosine, one.cosine) for site, one in similar(suite).items())


def test_what_is_in_another_space_is_refused(suite: Suite) -> None:
    stream, point = (suite.sites[0], torch.arange(2)), (Site.at("blocks.0.attn.hook_z"), torch.arange(2))
    with pytest.raises(ValueError, match=r"0.attn and blocks.0.attn.hook_z do not write to the same space"):
        between(suite, stream, point)
