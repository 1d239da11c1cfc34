"""Regrowth: which connections move, that their number stays, and that a resumed run moves the same ones."""

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fits import Interrupted, between_steps, finetune, objective, state, training

from scae.artifacts.checkpoints import CHECKPOINT
from scae.config import Regrow
from scae.connections import Connections, Inputs
from scae.data import TokenWindows
from scae.lm import LanguageModel, Trace
from scae.selection import Sample, summed_contributions
from scae.sites import Site
from scae.suite import Suite, passes
from scae.training import Regrowth, SuiteTraining, moved_share
from scae.training.regrow import Measured, measure, regrown, slopes, swapped

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def windows(full_windows: TokenWindows) -> TokenWindows:
    return full_windows


@pytest.fixture
def suite(lm: LanguageModel, make_suite: Make, ragged: Make) -> Suite:
    suite = make_suite(lm, n_features=14)
    suite[suite.sites[-1]].encoder.b.data[5] = -1e4  # never fires
    suite.connect(ragged(suite.layout))
    return suite


def mask(connections: Connections, site: Site) -> torch.Tensor:
    inputs = connections[site]
    kept = torch.zeros(connections.layout.size(site), connections.layout.n_upstream(site), dtype=torch.bool)
    kept[inputs.down, inputs.up.long()] = True
    return kept


def measured(suite: Suite, trace: Trace) -> Sample[Measured]:
    return measure(suite, objective(logit_kl=1.0), lambda: [trace], megabytes=1)


def test_what_does_least_goes_for_what_helps_most_if_it_helps() -> None:
    does = torch.tensor([[5.0, 1.0, 2.0, 9.0, 3.0, 0.0]]).repeat(4, 1)
    helps = torch.tensor([[9.0, 9.0, 9.0, 1.0, 2.0, -1.0]]).repeat(4, 1)
    connected = torch.tensor([[True, True, True, False, False, False]]).repeat(4, 1)
    connected[3] = torch.tensor([True, True, True, True, True, False])  # nothing that helps is left
    after = swapped(does[connected], helps, connected, torch.tensor([0, 1, 3, 3]))
    expected = [[0, 1, 2], [0, 2, 4], [0, 3, 4], [0, 1, 2, 3, 4]]
    assert [row.nonzero()[:, 0].tolist() for row in after] == expected


def test_features_with_few_connections_or_all_of_them() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0]]).repeat(3, 1)
    connected = torch.tensor([[False] * 3, [True] * 3, [True, False, False]])
    after = swapped(values[connected], values, connected, torch.tensor([0, 3, 1]))
    assert after.tolist() == [[False] * 3, [True] * 3, [False, False, True]]


def loss_with(suite: Suite, trace: Trace, site: Site, down: int, up: int, strength: float) -> float:
    """The loss where one connection more is there, its virtual weight times `strength`."""
    wired = passes.arrivals_at

    def arrivals(suite: Suite, at: Site, upstream: Any, trace: Trace) -> Any:
        found = wired(suite, at, upstream, trace)
        if at != site:
            return found
        here = (found.edges.down == down) & (found.edges.up == up)
        assert int(here.sum()) == 1
        return replace(found, weight=torch.where(here[:, None], strength * found.weight, found.weight))

    before = suite.connections
    kept = mask(before, site)
    kept[down, up] = True
    inputs = {other: before[other] for other in suite.sites}
    inputs[site] = Inputs.from_pairs(*kept.nonzero(as_tuple=True), suite.layout.size(site))
    suite.connect(Connections(suite.layout, inputs))
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(passes, "arrivals_at", arrivals)
        loss = objective(logit_kl=1.0)(suite(trace, mode="pruned"), trace, suite.lm.paths)
    suite.connect(before)
    return float(loss.total)


def test_what_helps_is_the_slope_of_the_loss_in_the_strength_of_a_connection(suite: Suite, trace: Trace) -> None:
    suite.eval()
    site = suite.sites[-1]
    slope = slopes(suite, site, slice(0, suite.layout.size(site)), measured(suite, trace))
    large = slope.abs() > slope.abs().median()
    missing = (~mask(suite.connections, site) & large).nonzero()[::9].tolist()
    assert len(missing) > 5
    for down, up in missing:
        more, less = (loss_with(suite, trace, site, down, up, strength) for strength in (1e-6, -1e-6))
        assert float(slope[down, up]) == pytest.approx((more - less) / 2e-6, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_a_round_keeps_the_number_and_moves_what_it_should(suite: Suite, trace: Trace, share: float) -> None:
    before, batches = suite.connections, measured(suite, trace)
    after = regrown(suite, batches, share=share, chunk_mb=1)
    assert len(after) == len(before)
    assert 0 < moved_share(before, after) < 1
    for site in suite.sites:
        if not suite.layout.n_upstream(site):
            continue
        rows = slice(0, suite.layout.size(site))
        does = summed_contributions(suite, site, rows, batches, lambda one, at=site: one.codes[at].dense()).abs()
        helps = -slopes(suite, site, rows, batches)
        old, new = mask(before, site), mask(after, site)
        assert torch.equal(old.sum(1), new.sum(1))
        for i, fires in enumerate(batches.records[0].codes[site].fired().tolist()):
            gone, come, stayed = old[i] & ~new[i], new[i] & ~old[i], ~old[i] & ~new[i]
            useful = int((helps[i][~old[i]] > 0).sum())
            assert int(come.sum()) == (min(math.ceil(share * int(old[i].sum())), useful) if fires else 0)
            if come.any():
                assert helps[i][come].min() > 0
                assert not stayed.any() or helps[i][come].min() >= helps[i][stayed].max()
                assert not (old[i] & new[i]).any() or does[i][gone].max() <= does[i][old[i] & new[i]].min()


def test_silent_features_keep_their_connections(suite: Suite, trace: Trace) -> None:
    last = suite.sites[-1]
    after = regrown(suite, measured(suite, trace), share=1.0, chunk_mb=1)
    assert not suite(trace, mode="pruned").codes[last].fired()[5]
    assert mask(suite.connections, last)[5].any()
    assert torch.equal(mask(after, last)[5], mask(suite.connections, last)[5])


def test_a_round_does_not_depend_on_the_chunk(suite: Suite, trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_by_one(suite: Suite, site: Site, megabytes: int, *, tokens: int = 0) -> Any:
        return (slice(i, i + 1) for i in range(suite.layout.size(site)))

    at_once = regrown(suite, measured(suite, trace), share=0.4, chunk_mb=1)
    monkeypatch.setattr(sys.modules["scae.training.regrow"], "chunks", one_by_one)
    assert regrown(suite, measured(suite, trace), share=0.4, chunk_mb=1) == at_once


def test_a_round_only_rewires(suite: Suite, trace: Trace) -> None:
    suite.train()
    before = state(suite)
    connections = suite.connections
    regrown(suite, measured(suite, trace), share=0.5, chunk_mb=1)
    assert suite.training
    assert suite.connections is connections
    assert all(torch.equal(value, before[name]) for name, value in suite.state_dict().items())


def test_what_moved_is_counted(suite: Suite, ragged: Make) -> None:
    one, other = ragged(suite.layout), ragged(suite.layout, seed=1)
    new = sum(int((mask(other, site) & ~mask(one, site)).sum()) for site in suite.sites)
    assert moved_share(one, other) == pytest.approx(new / len(other))
    assert moved_share(one, one) == 0


# in a fit


class Watched(Regrowth):
    """Keeps the steps at which connections moved."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.moved: list[int] = []

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        before = self.suite.connections
        super().on_train_batch_end(trainer, *args)
        if self.suite.connections != before:
            self.moved.append(trainer.global_step)


def run(
    suite: Suite,
    windows: TokenWindows,
    folder: Path,
    accumulate: int = 1,
    module: type[SuiteTraining] = SuiteTraining,
    **changes: Any,
) -> list[int]:
    regrow = Regrow(**({"every": 4, "share": 0.5, "until": 0.9, "batches": 2} | changes))
    regrowth = Watched(suite, objective(), regrow, steps=training().steps, chunk_mb=1)
    finetune(suite, windows, folder, regrowth, accumulate, module)
    return regrowth.moved


@pytest.mark.parametrize(
    ("changes", "steps"), [({}, [4, 8, 12]), ({"every": 5, "until": 0.6}, [5]), ({"every": None}, [])]
)
def test_rounds_are_held_when_they_should(
    gpt2: LanguageModel,
    windows: TokenWindows,
    make_suite: Make,
    ragged: Make,
    tmp_path: Path,
    changes: dict[str, Any],
    steps: list[int],
) -> None:
    suite = make_suite(gpt2)
    before = ragged(suite.layout)
    suite.connect(before)
    assert run(suite, windows, tmp_path, **changes) == steps
    after = suite.connections
    assert (after == before) == (not steps)
    for site in suite.sites:
        assert torch.equal(before[site].crow, after[site].crow)


@pytest.mark.parametrize(("accumulate", "at"), [(1, 10), (1, 8), (2, 19)], ids=str)
def test_an_interrupted_and_resumed_run_moves_the_same_connections(
    gpt2: LanguageModel,
    windows: TokenWindows,
    make_suite: Make,
    ragged: Make,
    tmp_path: Path,
    accumulate: int,
    at: int,
) -> None:
    """To the bit, killed between two rounds (10 and 19: after steps 10 and 9) and right behind one (8)."""

    def fresh() -> Suite:
        suite = make_suite(gpt2)
        suite.connect(ragged(suite.layout))
        return suite

    whole, halves, rest = fresh(), fresh(), fresh()
    run(whole, windows, tmp_path / "whole", accumulate)
    with pytest.raises(Interrupted):
        run(halves, windows, tmp_path / "halves", accumulate, between_steps(at))
    checkpoint = torch.load(tmp_path / "halves" / CHECKPOINT, weights_only=True)  # no pickled code
    assert checkpoint["global_step"] == at // accumulate
    assert run(rest, windows, tmp_path / "halves", accumulate) == [12]
    assert rest.connections == whole.connections
    assert rest.connections != fresh().connections
    expected = state(whole)
    assert not [name for name, value in state(rest).items() if not torch.equal(value, expected[name])]
