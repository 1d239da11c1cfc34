"""What is known of a feature, against loops over dense activations."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_database import F, N, dense, parts

from scae.analysis.agreement import agreement
from scae.analysis.database import write_codes
from scae.analysis.features import counts, density, states
from scae.analysis.statistics import Extent, statistics
from scae.report.analysis_files import ALIVE, BANDS, BINS, DRAWN, NEVER_FIRED, NO_INPUT, PLAIN_ONLY, Tables

_ = dense  # a fixture of these tests, too
EXTENT = Extent(n_live=50, context=6)


def stored(values: Any, path: Path) -> Tables:
    return Tables(write_codes(path, lambda: parts(values, (len(values),)), n_tokens=len(values), n_features=F))


@pytest.fixture(params=[1, 30, 10_000])
def found(dense: Any, tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    return statistics(stored(dense, tmp_path / "x.safetensors"), EXTENT, examples=3, seed=4, entries=request.param)


def test_moments_and_histograms(dense: Any, found: dict[str, Any]) -> None:
    for number in range(F):
        fired = dense[:, number][dense[:, number] > 0]
        assert found["rate"][number] == np.float32(len(fired) / EXTENT.n_live)
        if not len(fired):
            assert np.isnan(found["mean"][number])
            assert np.isnan(found["max"][number])
            assert found["histogram"][number].sum() == 0
            continue
        assert found["mean"][number] == pytest.approx(fired.mean())
        assert found["max"][number] == fired.max()
        assert found["histogram"][number].tolist() == np.histogram(fired, BINS, (0, fired.max()))[0].tolist()
    assert found["histogram"].shape == (F, BINS)


def test_the_largest_come_from_different_windows(dense: Any, found: dict[str, Any]) -> None:
    for number in range(F):
        best: dict[int, tuple[float, int]] = {}
        for token in np.flatnonzero(dense[:, number]):
            window, one = token // EXTENT.context, (-dense[token, number], token)
            best[window] = min(best.get(window, one), one)
        wanted = sorted(best.values())[:3]
        missing = 3 - len(wanted)
        assert found["top"][number].tolist() == [token for _, token in wanted] + [-1] * missing
        assert found["top_value"][number][: len(wanted)].tolist() == [-value for value, _ in wanted]
        assert np.isnan(found["top_value"][number][len(wanted) :]).all()


def test_bands_are_of_equal_counts_and_strongest_first(dense: Any, found: dict[str, Any]) -> None:
    for number in range(F):
        order = [t for _, t in sorted((-dense[t, number], t) for t in np.flatnonzero(dense[:, number]))]
        bounds = [-(-len(order) * band // BANDS) for band in range(BANDS + 1)]
        for band in range(BANDS):
            members = order[bounds[band] : bounds[band + 1]]
            drawn = [token for token in found["quantile"][number, band].tolist() if token >= 0]
            assert len(drawn) == min(DRAWN, len(members))
            assert len(set(drawn)) == len(drawn)
            assert [members.index(token) for token in drawn] == sorted(members.index(token) for token in drawn)
            values = found["quantile_value"][number, band]
            assert values[: len(drawn)].tolist() == dense[drawn, number].tolist()
            assert np.isnan(values[len(drawn) :]).all()


def test_draws_follow_the_seed_and_not_the_runs(dense: Any, tmp_path: Path) -> None:
    codes = stored(dense, tmp_path / "x.safetensors")
    first, again = (statistics(codes, EXTENT, examples=3, seed=0, entries=entries) for entries in (1, 1000))
    other = statistics(codes, EXTENT, examples=3, seed=1)
    assert all(np.array_equal(first[name], again[name], equal_nan=True) for name in first)
    assert not np.array_equal(first["quantile"], other["quantile"])
    assert np.array_equal(first["top"], other["top"])


def test_bands_of_few(tmp_path: Path) -> None:
    """A single activation is of the strongest band."""
    values = np.zeros((N, F), dtype=np.float32)
    values[5, 2] = 3
    found = statistics(stored(values, tmp_path / "x.safetensors"), EXTENT, examples=2, seed=0)
    assert found["quantile"][2].tolist() == [[5, -1, -1, -1], *[[-1] * DRAWN] * (BANDS - 1)]
    assert (found["quantile"][[0, 1, 3]] == -1).all()


@pytest.mark.parametrize("entries", [1, 40, 10_000])
def test_agreement_of_two_passes(dense: Any, tmp_path: Path, entries: int) -> None:
    random = np.random.default_rng(3)
    other = np.where(random.random((N, F)) < 0.5, dense, random.integers(0, 2, (N, F)).astype(np.float32))
    other[:, 4], other[10:14] = 0, 0
    codes = [stored(values, tmp_path / f"{name}.safetensors") for name, values in (("a", dense), ("b", other))]
    live = np.ones(N, dtype=bool)
    live[10:14] = False  # where nothing fires in either
    found = agreement(*codes, int(live.sum()), entries=entries)
    for number in range(F):
        p, q = dense[live, number].astype(np.float64), other[live, number].astype(np.float64)
        union = ((p > 0) | (q > 0)).sum()
        if p.std() == 0 or q.std() == 0:
            assert np.isnan(found["agreement"][number])
        else:
            assert found["agreement"][number] == pytest.approx(np.corrcoef(p, q)[0, 1], abs=1e-6)
        if union:
            assert found["jaccard"][number] == pytest.approx(((p > 0) & (q > 0)).sum() / union)
        else:
            assert np.isnan(found["jaccard"][number])
    assert np.isnan(found["agreement"][4])


def test_states() -> None:
    rate = np.array([[0.1, 0, 0.1, 0.1, 0, 0.1], [0.1, 0, 0, 0.1, 0.1, 0]])
    degrees = np.array([3, 0, 0, 0, 1, 2])
    assert states(rate, degrees).tolist() == [ALIVE, NEVER_FIRED, PLAIN_ONLY, NO_INPUT, ALIVE, PLAIN_ONLY]
    assert states(rate, None).tolist() == [ALIVE, NEVER_FIRED, PLAIN_ONLY, ALIVE, ALIVE, PLAIN_ONLY]
    assert states(rate[:1], None).tolist() == [ALIVE, NEVER_FIRED, ALIVE, ALIVE, NEVER_FIRED, ALIVE]
    tables = {"rate": rate, "state": states(rate, degrees)}
    kinds = {"never_fired": 1, "plain_only": 2, "no_input": 1}
    assert counts(tables, 0) == {"dead": 2} | kinds
    assert counts(tables, 1) == {"dead": 3} | kinds


def test_density_counts_every_feature_that_fires() -> None:
    rate = np.array([0, 1 / 800, 1 / 800, 0.5, 1.0])
    found = density(rate, 800)
    assert found["edges"][0] == -3
    assert found["edges"][-1] == 0
    assert len(found["edges"]) == len(found["counts"]) + 1 == 13
    assert sum(found["counts"]) == 4
    assert found["counts"][0] == 2
