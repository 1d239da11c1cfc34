"""The mean contributions that connections are chosen by, in float64 on three architectures."""

import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from scae.connections import Connections, Inputs
from scae.kernels import SparseCode
from scae.lm import LanguageModel, Trace
from scae.selection import Record, Sample, mean_contributions, record
from scae.selection.contributions import chunks
from scae.sites import Site
from scae.suite import Reading, Suite

WEIGHTINGS: tuple[Any, ...] = ("all", "firing", "activation")
SILENT = 2  # of the first, second and last site, this feature never fires
Make = Callable[..., Suite]


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.fixture(scope="module")
def traces(lm: LanguageModel, trace: Trace) -> list[Trace]:
    """Two batches of different shapes, BOS and padding in both."""
    tokens = torch.randint(40, (2, 5), generator=torch.Generator().manual_seed(8))
    live = torch.ones_like(tokens, dtype=torch.bool)
    live[:, 0] = False
    live[0, -1] = False
    return [trace, lm.trace(tokens, live)]


@pytest.fixture(scope="module")
def suite(lm: LanguageModel, make_suite: Make) -> Suite:
    suite = make_suite(lm)
    for site in (suite.sites[0], suite.sites[1], suite.sites[-1]):
        suite[site].encoder.b.data[SILENT] = -1e4
    return suite.eval()


@pytest.fixture(scope="module")
def sample(suite: Suite, traces: list[Trace]) -> Sample[Record]:
    return record(suite, lambda: traces, megabytes=1)


def sample_of(suite: Suite, traces: list[Trace], codes: list[dict[Site, SparseCode]]) -> Sample[Record]:
    """Other codes than those of the plain pass."""
    given = iter(codes)
    return Sample(suite, lambda: traces, lambda one: Record(one.live, one.scales, next(given)), megabytes=1)


def whole(suite: Suite, site: Site) -> slice:
    return slice(0, suite.layout.size(site))


def brute_force(
    suite: Suite, site: Site, sample: Sample[Record], traces: list[Trace], weighting: str, architecture: str
) -> np.ndarray:
    """The definition, one query, head and key at a time; `[down, up]`."""
    paths = suite.lm.paths
    W_V, W_O = paths.W_V[site.layer].numpy(), paths.W_O[site.layer].numpy()
    E = (suite[site].encoder.W.detach() / suite[site].reads.scale).numpy()
    ups = suite.layout.upstream(site)
    D = np.concatenate([(suite[up].decoder.W.detach() * suite[up].writes.scale).numpy() for up in ups])
    if architecture != "llama":  # LayerNorm subtracts the mean, RMSNorm does not
        D = D - D.mean(1, keepdims=True)
    fired = sum((one.codes[site].dense().detach().numpy() > 0).sum(0) for one in sample.records) > 0
    total, norm = np.zeros((len(E), len(D))), np.zeros(len(E))
    for one, trace in zip(sample.records, traces, strict=True):
        n_batch, n_pos = trace.live.shape
        f = np.concatenate([one.codes[up].dense().detach().numpy() for up in ups], 1).reshape(n_batch, n_pos, -1)
        own = one.codes[site].dense().detach().numpy().reshape(n_batch, n_pos, -1)
        s = trace.scales[site.module].numpy()[..., 0]
        for b in range(n_batch):
            for t in range(n_pos):
                if not trace.live[b, t]:
                    continue
                if site.kind == "mlp":
                    c = (E @ D.T) * f[b, t] / s[b, t]
                else:
                    c = np.zeros_like(total)
                    for h in range(len(W_O)):
                        V = E @ W_O[h].T @ (D @ W_V[h * len(W_V) // len(W_O)]).T
                        for k in range(t + 1):
                            c += V * float(trace.patterns[site.layer][b, h, t, k]) * f[b, k] / s[b, k]
                w = {"all": np.ones(len(E)), "firing": (own[b, t] > 0) * 1.0, "activation": own[b, t]}[weighting]
                w = np.where(fired, w, 1.0)
                total += w[:, None] * c
                norm += w
    return total / norm[:, None]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_scores_are_the_definition(
    suite: Suite, sample: Sample[Record], traces: list[Trace], architecture: str, weighting: Any
) -> None:
    compared = set()
    for site in suite.sites:
        if suite.layout.upstream(site):
            ours = mean_contributions(suite, site, whole(suite, site), sample, weighting)
            expected = brute_force(suite, site, sample, traces, weighting, architecture)
            assert np.abs(expected).max() > 1e-3
            close(ours, torch.from_numpy(expected))
            compared.add(site.kind)
    assert compared == {"attn", "mlp"}


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_contributions_and_base_add_up_to_the_preactivation(
    lm: LanguageModel, traces: list[Trace], make_suite: Make, weighting: Any
) -> None:
    """On the codes of the pass with all connections; so attention and MLP are measured on one scale."""
    suite = make_suite(lm, activation="relu").eval()
    layout, inputs = suite.layout, {}
    for site in suite.sites:
        n_up, n_down = layout.n_upstream(site), layout.size(site)
        inputs[site] = Inputs.from_pairs(
            torch.arange(n_down).repeat_interleave(n_up), torch.arange(n_up).repeat(n_down), n_down
        )
    suite.connect(Connections(layout, inputs))
    arrived: dict[Site, list[torch.Tensor]] = {site: [] for site in suite.sites}
    codes, weights = [], {site: [] for site in suite.sites}
    for trace in traces:
        live = trace.live.flatten()

        def meet(reading: Reading, live: torch.Tensor = live) -> None:
            alone, whole = reading.alone_and_all()
            arrived[reading.site].append((whole - alone)[live])

        out = suite(trace, meet=meet)
        codes.append(out.codes)
        for site in suite.sites:
            weights[site].append(out.codes[site].dense().detach()[live])
    sample = sample_of(suite, traces, codes)
    for site in suite.sites:
        if not layout.upstream(site):
            continue
        f = torch.cat(weights[site])
        silent = (f > 0).sum(0) == 0
        w = {"all": torch.ones_like(f), "firing": (f > 0).double(), "activation": f}[weighting]
        w = torch.where(silent, torch.ones_like(f), w)
        expected = (w * torch.cat(arrived[site])).sum(0) / w.sum(0)
        ours = mean_contributions(suite, site, whole(suite, site), sample, weighting).sum(1)
        torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-9)


def test_silent_features_are_scored_over_all_tokens(suite: Suite, sample: Sample[Record]) -> None:
    site = suite.sites[-1]
    everywhere = mean_contributions(suite, site, whole(suite, site), sample, "all")
    assert everywhere[SILENT].abs().max() > 1e-4
    live = torch.cat([one.live.flatten() for one in sample.records])
    counts = (torch.cat([one.codes[site].dense() for one in sample.records])[live] > 0).sum(0)
    sometimes = (counts > 0) & (counts < live.sum())
    assert sometimes.sum() > 3
    for weighting in ("firing", "activation"):
        scores = mean_contributions(suite, site, whole(suite, site), sample, weighting)
        close(scores[SILENT], everywhere[SILENT])
        assert (scores - everywhere)[sometimes].abs().amax(1).min() > 1e-6


def test_a_feature_that_fires_in_one_batch_only_is_not_silent(
    suite: Suite, sample: Sample[Record], traces: list[Trace], architecture: str
) -> None:
    site = suite.sites[-1]
    feature = int((sample.records[0].codes[site].fired() & sample.records[1].codes[site].fired()).nonzero()[0])
    codes = [dict(one.codes) for one in sample.records]
    dense = codes[0][site].dense().detach()
    dense[:, feature] = 0
    codes[0][site] = SparseCode.where(dense > 0, dense)
    silenced = sample_of(suite, traces, codes)
    for weighting in ("firing", "activation"):
        ours = mean_contributions(suite, site, whole(suite, site), silenced, weighting)
        expected = brute_force(suite, site, silenced, traces, weighting, architecture)
        close(ours, torch.from_numpy(expected))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_scores_do_not_depend_on_the_chunk(suite: Suite, sample: Sample[Record], weighting: Any) -> None:
    for site in suite.sites[-2:]:
        at_once = mean_contributions(suite, site, whole(suite, site), sample, weighting)
        rows = [
            mean_contributions(suite, site, slice(i, i + 1), sample, weighting) for i in range(suite.layout.size(site))
        ]
        close(torch.cat(rows), at_once)


def test_chunks_cover_a_site_and_stay_below_the_bound(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    large = replace(suite.layout, sizes=(800,) * len(suite.sites))
    monkeypatch.setattr(suite, "layout", large)
    for site in suite.sites[-2:]:
        found = list(chunks(suite, site, 1))
        assert [i for rows in found for i in range(rows.start, rows.stop)] == list(range(800))
        assert len(found) > 1
        heads = suite.lm.paths.W_O.shape[1] if site.kind == "attn" else 1
        assert max(rows.stop - rows.start for rows in found) * large.n_upstream(site) * heads * 4 <= 2**20


def test_patterns_of_few_layers_are_held_and_scores_are_the_same(
    build_tiny: Callable[..., Any], batch: tuple[torch.Tensor, torch.Tensor], make_suite: Make
) -> None:
    """The runs of the model are gone once a batch is recorded; where patterns do not fit, it runs again."""
    lm = build_tiny("neox").lm  # of three layers
    suite = make_suite(lm).eval()
    runs: list[list[weakref.ref]] = []

    def traces() -> Iterator[Trace]:
        runs.append([])
        for _ in range(3):
            trace = lm.trace(*batch)
            runs[-1].extend(map(weakref.ref, [*trace.outputs.values(), *trace.patterns.values()]))
            yield trace
            del trace

    sample = record(suite, lambda: list(traces()), megabytes=1)
    sites = [site for site in suite.sites if suite.layout.upstream(site)]
    expected = [mean_contributions(suite, site, whole(suite, site), sample, "activation") for site in sites]
    assert len(runs) == 1, "all patterns fit"
    runs.clear()
    sample = record(suite, traces, megabytes=0)
    for site, scores in zip(sites, expected, strict=True):
        assert torch.equal(mean_contributions(suite, site, whole(suite, site), sample, "activation"), scores)
        held = sum(one() is not None for run in runs for one in run)
        assert held == 3, "the patterns of one layer, and nothing else, of three batches"
    assert len(runs) == len({site.layer for site in sites if site.kind == "attn"}) == 2


def test_recording_uses_inference_thresholds_and_leaves_the_suite_as_it_was(
    lm: LanguageModel, traces: list[Trace], make_suite: Make
) -> None:
    suite = make_suite(lm, activation="batchtopk").train()
    for site in suite.sites:
        suite[site].activation.threshold.fill_(0.7)
    before = {name: value.clone() for name, value in suite.state_dict().items()}
    recorded = record(suite, lambda: traces, megabytes=1).records
    assert suite.training
    for name, value in suite.state_dict().items():
        assert torch.equal(value, before[name]), name
    for site in suite.sites:
        for one in recorded:
            assert len(one.codes[site].value)
            assert one.codes[site].value.min() > 0.7
