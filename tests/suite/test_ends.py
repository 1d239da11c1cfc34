"""The embedding as a source and the unembedding as a sink, in float64 on three architectures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from observing import observed

from scae import kernels
from scae.config import Connectivity
from scae.connections import Connections, Inputs
from scae.lm import LanguageModel, Trace
from scae.selection import choose
from scae.sites import SINK, SOURCE, Site
from scae.suite import Suite, SuiteOutput, files

Make = Callable[..., Suite]
Ragged = Callable[..., Connections]


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.fixture
def suite(lm: LanguageModel, trace: Trace, make_suite: Make) -> Suite:
    """Both ends, and a mean embedding that is not 0."""
    suite = make_suite(lm, ends=(SOURCE, SINK))
    assert suite.source is not None
    suite.source.measure(trace.tokens[trace.live])
    assert suite.source.writes.centre.abs().max() > 0.01
    return suite


def every_pair(suite: Suite) -> Connections:
    layout = suite.layout
    inputs = {}
    for site in layout.sites:
        n_up, n_down = layout.n_upstream(site), layout.size(site)
        inputs[site] = Inputs.from_pairs(
            torch.arange(n_down).repeat_interleave(n_up), torch.arange(n_up).repeat(n_down), n_down
        )
    return Connections(layout, inputs)


def logits_of(out: SuiteOutput) -> torch.Tensor:
    assert out.logits is not None
    return out.logits


def test_the_ends_stand_before_and_after_everything(suite: Suite) -> None:
    assert suite.layout.sites == (SOURCE, *suite.sites, SINK)
    assert suite.layout.upstream(SOURCE) == ()
    assert suite.layout.upstream(suite.sites[0]) == (SOURCE,)
    assert suite.layout.upstream(SINK) == (SOURCE, *suite.sites)
    assert SOURCE not in suite
    assert [str(SOURCE), str(SINK)] == ["embed", "unembed"]
    assert (Site.parse("embed"), Site.parse("unembed")) == (SOURCE, SINK)


def test_what_tokens_write_and_the_rest_are_the_embedding(suite: Suite, trace: Trace) -> None:
    source = suite.source
    assert source is not None
    written = source.code(trace).dense() @ source.rows(suite.sites[0].module)
    close(source.constant(trace).flatten(0, 1) + written, trace.embed.flatten(0, 1))
    assert torch.equal(source.constant(trace)[~trace.live], trace.embed[~trace.live])
    close(written[trace.live.flatten()].mean(0), torch.zeros(suite.lm.paths.d_model).double())  # around their mean


def test_without_dictionaries_the_sink_says_what_the_model_does(lm: LanguageModel, trace: Trace) -> None:
    bare = Suite({}, lm, ends=(SOURCE, SINK)).double()
    truth = lm.paths.logits(trace.stream(lm.paths.modules))
    close(logits_of(bare(trace, "dense")), truth)
    bare.connect(every_pair(bare))
    close(logits_of(bare(trace, "pruned"))[trace.live], truth[trace.live])


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_all_connections_equal_the_dense_pass(suite: Suite, trace: Trace, backend: str) -> None:
    """I1, with the logits: values, and the gradients of everything."""
    generator = torch.Generator().manual_seed(3)
    direction = torch.randn(*trace.live.shape, suite.lm.paths.W_U.shape[1], generator=generator).double()
    direction[~trace.live] = 0

    def run(mode: Any) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        suite.zero_grad()
        out = suite(trace, mode)
        (logits_of(out) * direction).sum().backward()
        return logits_of(out)[trace.live], out.residual(), {n: p.grad.clone() for n, p in suite.named_parameters()}

    with kernels.use(backend):
        dense = run("dense")
        suite.connect(every_pair(suite))
        pruned = run("pruned")
    close(pruned[0], dense[0])
    close(pruned[1], dense[1])
    assert len(dense[2]) == 4 * len(suite.sites)
    for name, gradient in dense[2].items():
        torch.testing.assert_close(pruned[2][name], gradient, rtol=1e-8, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_logits_and_first_preactivations_are_the_formula(
    suite: Suite, trace: Trace, ragged: Ragged, architecture: str
) -> None:
    """I3: one number at a time."""
    lm, layout, source = suite.lm, suite.layout, suite.source
    assert source is not None
    suite.connect(ragged(layout))
    seen, out = observed(suite, trace)
    first = next(site for site in suite.sites if site.kind == "mlp" and layout.upstream(site)[0] == SOURCE)
    base = source.constant(trace)
    written = [(SOURCE, j, source.rows_written[j] - source.writes.centre) for j in range(source.n_features)]
    active = {SOURCE: source.code(trace).dense().view(*trace.live.shape, -1)}
    bases = {}
    for level in lm.paths.order:
        for module in level:
            bases[module] = base
        for module in level:
            site = suite.site_at(module)
            if site is not None:
                own = suite[site]
                constant = own.decoder.b * own.writes.scale + own.writes.centre
                base = base + torch.where(trace.live[..., None], constant, trace.outputs[module])
                written += [(site, j, own.decoder.W[j] * own.writes.scale) for j in range(own.n_features)]
                active[site] = out.codes[site].dense().view(*trace.live.shape, -1)
            elif module in trace.outputs:
                base = base + trace.outputs[module]

    def centred(row: torch.Tensor) -> torch.Tensor:
        return row if architecture == "llama" else row - row.mean(-1, keepdim=True)

    final = centred(trace.stream(lm.paths.modules))
    scales = {SINK: (final.square().mean(-1) + lm.paths.eps).sqrt(), first: trace.scales[first.module][..., 0]}
    rows = {SINK: lm.paths.W_U.T, first: suite[first].encoder.W / suite[first].reads.scale}
    bias = {
        SINK: lm.paths.b_U,
        first: suite[first].encoder.b - rows[first] @ suite[first].reads.centre,
    }
    found = {SINK: logits_of(out), first: seen[first].view(*trace.live.shape, -1)}
    checked = 0
    for site in (first, SINK):
        inputs = suite.connections[site]
        for i in range(0, layout.size(site), 3):
            ups = [written[n] for n in inputs.up[int(inputs.crow[i]) : int(inputs.crow[i + 1])].tolist()]
            for b, t in np.argwhere(trace.live.numpy())[::4].tolist():
                arrived = centred(rows[site][i]) @ bases[site.module][b, t]
                for up, j, row in ups:
                    arrived = arrived + centred(rows[site][i]) @ row * active[up][b, t, j]
                expected = bias[site][i] + arrived / scales[site][b, t]
                close(found[site][b, t, i], expected)
                checked += 1
    assert checked > 20


def test_what_a_token_adds_is_an_input_that_can_be_read(suite: Suite, ragged: Ragged) -> None:
    suite.connect(ragged(suite.layout))
    tokens = [one for one in suite.inputs("0.mlp", 1) if one.site == SOURCE]
    assert len(tokens) == suite.layout.size(SOURCE)  # of the ragged connections, feature 1 has all
    path, own, source = suite.path(Site(0, "mlp")), suite[Site(0, "mlp")], suite.source
    assert source is not None
    weights = path.readers(own.encoder.W[1:2] / own.reads.scale)[0, 0] @ source.rows(Site(0, "mlp").module).T
    close(
        torch.tensor([one.weight for one in tokens], dtype=torch.float64),
        weights[[one.feature for one in tokens]].detach(),
    )
    assert {one.site for one in suite.inputs("unembed", 1)} == set(suite.layout.upstream(SINK))


def test_each_next_token_has_its_own_connections(suite: Suite, trace: Trace) -> None:
    config = Connectivity(
        method="contribution", C=5, scope="joint", weighting="activation", tokens=21, chunk_mb=1,
        budget="by_score", spread=2, path=None,
    )  # fmt: skip
    connections, stats = choose(config, suite, lambda: [trace], seed=0)
    assert (connections[SINK].crow.diff() == 5).all()
    assert 0 < stats["connectivity/kept/unembed"] < 1
    assert sum(value for key, value in stats.items() if key.startswith("connectivity/from/unembed/")) == pytest.approx(
        1
    )
    assert stats["connectivity/from/0.mlp/embed"] > 0


def test_the_mean_embedding_is_stored(suite: Suite, trace: Trace, ragged: Ragged, tmp_path: Path) -> None:
    suite.connect(ragged(suite.layout))
    files.save(suite, tmp_path)
    loaded = files.load(tmp_path, suite.lm)
    assert loaded.layout == suite.layout
    assert suite.source is not None
    assert loaded.source is not None
    assert torch.equal(loaded.source.writes.centre, suite.source.writes.centre.float())
