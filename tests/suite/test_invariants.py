"""The invariants of the passes (DESIGN.md, section 3), in float64 on three architectures."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from edge_lists import every_pair
from observing import observed

from scae import kernels
from scae.config import AuxK
from scae.connections import Connections, Inputs
from scae.dictionaries import TopK
from scae.lm import LanguageModel, Module, Trace
from scae.sites import Site, in_order
from scae.suite import Mode, Suite, SuiteOutput

MODES: tuple[Mode, ...] = ("plain", "spliced", "dense", "pruned")
ACTIVATIONS = ("topk", "relu", "batchtopk", "jumprelu", "matryoshka", "groupmax", "gated")
AUX = ("penalty", "partial", "revived")
Make = Callable[..., Suite]
Ragged = Callable[..., Connections]


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def linear(out: SuiteOutput) -> torch.Tensor:
    """A random linear functional of everything that an objective may look at."""
    generator = torch.Generator().manual_seed(11)
    streams = [out.residual(), *out.reconstructions.values()]
    streams += [one for name in AUX for one in out.aux.get(name, {}).values()]
    return sum(((s * torch.randn(s.shape, dtype=s.dtype, generator=generator)).sum() for s in streams), torch.zeros(()))


def gradients(suite: Suite, out: SuiteOutput) -> dict[str, torch.Tensor]:
    suite.zero_grad()
    linear(out).backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in suite.named_parameters()}


def same(suite: Suite, one: SuiteOutput, other: SuiteOutput) -> None:
    """Values and gradients agree."""
    close(one.residual(), other.residual())
    for site in suite.sites:
        close(one.outputs[site.module], other.outputs[site.module])
        close(one.codes[site].dense(), other.codes[site].dense())
    assert one.aux.keys() == other.aux.keys()
    for name, by_site in one.aux.items():
        assert by_site.keys() == other.aux[name].keys()
        for site, value in by_site.items():
            close(value, other.aux[name][site])
    ours, theirs = gradients(suite, one), gradients(suite, other)
    for name, gradient in theirs.items():
        learns = suite.training or "threshold" not in name  # JumpReLU's, in training alone
        assert not learns or gradient.abs().max() > 0, f"{name} has no gradient: nothing is compared"
        torch.testing.assert_close(ours[name], gradient, rtol=1e-8, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


# I1: all connections kept == dense replacement


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_all_connections_equal_the_dense_pass(
    lm: LanguageModel, trace: Trace, make_suite: Make, activation: str, training: bool
) -> None:
    suite = make_suite(lm, activation=activation).train(training)
    if activation in ("batchtopk", "matryoshka"):
        for site in suite.sites:
            suite[site].activation.threshold.fill_(0.31)
    dense = suite(trace, "dense", aux=AUX)
    suite.connect(every_pair(suite))
    assert not suite.connections.is_complete
    assert len(suite.connections) == len(Connections.complete(suite.layout))
    same(suite, suite(trace, "pruned", aux=AUX), dense)


def test_complete_connections_equal_the_explicit_ones(lm: LanguageModel, trace: Trace, make_suite: Make) -> None:
    suite = make_suite(lm)
    suite.connect(Connections.complete(suite.layout))
    complete = suite(trace)
    for site in suite.sites:
        listed, written = suite.connections[site], every_pair(suite)[site]
        assert torch.equal(listed.crow, written.crow)
        assert torch.equal(listed.up, written.up)
    suite.connect(every_pair(suite))
    same(suite, suite(trace), complete)


def test_all_connections_equal_the_dense_pass_where_modules_have_no_dictionary(
    lm: LanguageModel, trace: Trace, make_suite: Make
) -> None:
    suite = make_suite(lm, sites=(Site(0, "mlp"), Site(1, "attn"), Site(1, "mlp")))
    dense = suite(trace, "dense")
    suite.connect(every_pair(suite))
    same(suite, suite(trace), dense)


def test_all_connections_equal_the_dense_pass_for_revived_features(
    lm: LanguageModel, trace: Trace, make_suite: Make
) -> None:
    suite = make_suite(lm, auxk=AuxK(k=3, dead_after=100))
    for site in suite.sites:
        suite[site].tokens_since_fired[2:8] = 100
    dense = suite(trace, "dense", aux=["revived"])
    assert set(dense.aux["revived"]) == set(suite.sites)
    suite.connect(every_pair(suite))
    pruned = suite(trace, aux=["revived"])
    for site in suite.sites:
        close(pruned.aux["revived"][site], dense.aux["revived"][site])
    same(suite, pruned, dense)


# I2: the model's true outputs upstream => the plain pass


def test_reading_the_true_stream_is_reading_the_model(lm: LanguageModel, trace: Trace, make_suite: Make) -> None:
    seen: dict[Module, torch.Tensor] = {}

    def keep(module: Module) -> Callable[..., None]:
        return lambda value, hook: seen.__setitem__(module, value)

    hooks = [(f"blocks.{layer}.ln2.hook_normalized", keep(Module(layer, "mlp"))) for layer in range(lm.paths.n_layers)]
    lm.bridge.run_with_hooks(trace.tokens, fwd_hooks=hooks)
    suite = make_suite(lm)
    plain = suite(trace, "plain")
    live = trace.live.flatten()
    compared = set()
    for module, stream in trace.streams(lm.paths.levels):
        truth = trace.outputs[module] if module.kind == "attn" else seen[module]
        site = suite.site_at(module)
        assert site is not None
        close(suite.path(site).read(stream, trace), truth)
        close(suite[site].encode(truth.flatten(0, 1), live).dense(), plain.codes[site].dense())
        compared.add(site)
    assert compared == set(suite.sites)


@pytest.mark.parametrize("mode", MODES)
def test_behind_true_outputs_every_pass_is_the_plain_pass(
    lm: LanguageModel, trace: Trace, make_suite: Make, mode: Mode
) -> None:
    everywhere = make_suite(lm)
    plain = everywhere(trace, "plain")
    for site in everywhere.sites:
        alone = Suite({site: everywhere[site]}, lm)  # no other module has a dictionary
        alone.connect(Connections.none(alone.layout))
        out = alone(trace, mode)
        close(out.codes[site].dense(), plain.codes[site].dense())
        close(out.outputs[site.module], plain.outputs[site.module])


# I3: brute force


def brute_force(architecture: str, suite: Suite, trace: Trace) -> tuple[dict[Site, np.ndarray], np.ndarray]:
    """The pre-activations at live positions (nan elsewhere) and the final stream, from method.md 1.1, one number at a
    time. Nothing here is shared with the passes but the weights and the record of the model's run."""
    paths, layout = suite.lm.paths, suite.layout
    connections = suite.connections
    W_V, W_O, b_O = paths.W_V.numpy(), paths.W_O.numpy(), paths.b_O.numpy()
    n_heads, per_kv = W_O.shape[1], W_O.shape[1] // W_V.shape[1]
    r0, live = trace.embed.numpy(), trace.live.numpy()
    own = {Site(module.layer, module.kind): out.numpy() for module, out in trace.outputs.items()}
    n_batch, n_pos, _ = r0.shape
    modules = [Site(layer, kind) for layer in range(W_V.shape[0]) for kind in ("attn", "mlp")]
    f = {s: np.zeros((n_batch, n_pos, suite[s].n_features)) for s in layout.sites}
    pre = {s: np.full((n_batch, n_pos, suite[s].n_features), np.nan) for s in layout.sites}
    written = {s: own[s].copy() for s in modules}

    unit = {s: {name: value.numpy() for name, value in suite[s].named_buffers()} for s in layout.sites}
    b_dec = {s: suite[s].decoder.b.detach().numpy() for s in layout.sites}
    constants = {s: b_dec[s] * unit[s]["writes.scale"] + unit[s]["writes.centre"] for s in layout.sites}

    def centred(row: np.ndarray) -> np.ndarray:
        return row if architecture == "llama" else row - row.mean()

    for site in modules:
        if site not in layout.sites:
            continue
        if architecture == "neox":
            upstream = [m for m in modules if m.layer < site.layer]
        else:
            upstream = [m for m in modules if modules.index(m) < modules.index(site)]
        numbers = [(u, j) for u in upstream if u in layout.sites for j in range(suite[u].n_features)]
        params = {name: value.detach().numpy() for name, value in suite[site].named_parameters()}
        inputs = connections[site]
        sigma = trace.scales[site.module].numpy()[..., 0]

        def constant(b: int, t: int, upstream: list[Site] = upstream) -> np.ndarray:
            total = r0[b, t].copy()
            for u in upstream:
                has_none = u not in layout.sites or not live[b, t]
                total += own[u][b, t] if has_none else constants[u]
            return total

        for i in range(suite[site].n_features):
            E_i = params["encoder.W"][i] / unit[site]["reads.scale"]
            ups = [numbers[n] for n in inputs.up[int(inputs.crow[i]) : int(inputs.crow[i + 1])].tolist()]
            decoder = {(u, j): suite[u].decoder.W.detach().numpy()[j] * unit[u]["writes.scale"] for u, j in ups}
            own_bias = -E_i @ unit[site]["reads.centre"]
            if site.kind == "mlp":
                v = [centred(E_i)]
            else:
                v = [centred(W_V[site.layer, h // per_kv] @ W_O[site.layer, h] @ E_i) for h in range(n_heads)]
                own_bias += E_i @ b_O[site.layer] - params["encoder.W"][i] @ params["decoder.b"]
            weight = [{(u, j): v_h @ decoder[u, j] for u, j in ups} for v_h in v]
            for b in range(n_batch):
                for t in range(n_pos):
                    if not live[b, t]:
                        continue
                    total = params["encoder.b"][i] + own_bias
                    for h, v_h in enumerate(v):
                        for k in [t] if site.kind == "mlp" else range(t + 1):
                            A = 1.0 if site.kind == "mlp" else trace.patterns[site.layer][b, h, t, k].item()
                            arrived = v_h @ constant(b, k)
                            for u, j in ups:
                                arrived += weight[h][u, j] * f[u][b, k, j]
                            total += A / sigma[b, k] * arrived
                    pre[site][b, t, i] = total
        for b in range(n_batch):
            for t in range(n_pos):
                if live[b, t]:
                    best = sorted(range(len(pre[site][b, t])), key=lambda n, p=pre[site][b, t]: -p[n])[:4]
                    x_hat = constants[site].copy()
                    for j in best:
                        f[site][b, t, j] = min(max(pre[site][b, t, j], 0.0), unit[site]["ceiling"][j])
                        x_hat += f[site][b, t, j] * params["decoder.W"][j] * unit[site]["writes.scale"]
                    written[site][b, t] = x_hat
    return pre, r0 + sum(written.values())


@pytest.mark.parametrize("missing", [(), (Site(0, "mlp"),), (Site(0, "attn"), Site(1, "mlp"))], ids=str)
def test_the_pruned_pass_is_the_formula(
    lm: LanguageModel,
    architecture: str,
    trace: Trace,
    make_suite: Make,
    ragged: Ragged,
    all_sites: Callable[[LanguageModel], list[Site]],
    missing: tuple[Site, ...],
) -> None:
    suite = make_suite(lm, n_features=6, sites=[site for site in all_sites(lm) if site not in missing])
    suite.connect(ragged(suite.layout))
    seen, out = observed(suite, trace)
    expected, final = brute_force(architecture, suite, trace)
    live = trace.live.flatten()
    assert set(seen) == set(expected) == set(suite.sites)
    for site, pre in expected.items():
        close(seen[site][live], torch.from_numpy(pre).flatten(0, 1)[live])
    close(out.residual().detach(), torch.from_numpy(final))


def test_without_connections_only_the_base_is_read(lm: LanguageModel, trace: Trace, make_suite: Make) -> None:
    suite = make_suite(lm)
    suite.connect(Connections.none(suite.layout))
    last = suite.sites[-1]
    before = suite(trace).codes[last].dense()
    for site in suite.sites[:-1]:
        suite[site].decoder.W.data.mul_(-3)
        suite[site].encoder.b.data.add_(1)
    assert torch.equal(suite(trace).codes[last].dense(), before)
    suite[suite.sites[0]].decoder.b.data.add_(1 + torch.arange(lm.paths.d_model))
    assert not torch.equal(suite(trace).codes[last].dense(), before)


# I4: no connection leaks


def shout(suite: Suite, site: Site, feature: int) -> None:
    """Make a feature fire strongly everywhere, and write something else."""
    suite[site].ceiling[feature] = torch.inf
    suite[site].encoder.b.data[feature] += 50
    suite[site].decoder.W.data[feature] += torch.linspace(1, -2, suite.lm.paths.d_model, dtype=torch.float64)


def keep_all(suite: Suite, activation: str) -> None:
    """TopK that keeps every positive feature: a loud one must not push another out, which would be no leak."""
    for site in suite.sites:
        if activation == "topk":
            suite[site].activation = TopK(k=suite[site].n_features)


@pytest.mark.parametrize("activation", ["relu", "topk"])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_an_unconnected_feature_changes_no_preactivation(
    lm: LanguageModel, trace: Trace, make_suite: Make, ragged: Ragged, backend: str, activation: str
) -> None:
    """At the first sites that read from others, where no indirect path exists."""
    suite = make_suite(lm, activation=activation)
    keep_all(suite, activation)
    suite.connect(ragged(suite.layout))
    loud, feature = suite.sites[0], 2
    second = in_order(suite.sites, lm.paths.levels)[1]
    with kernels.use(backend):
        before, _ = observed(suite, trace)
        shout(suite, loud, feature)
        after, _ = observed(suite, trace)
    live = trace.live.flatten()
    for site in second:
        inputs = suite.connections[site]
        connected = torch.zeros(suite.layout.size(site), dtype=torch.bool)
        connected[inputs.down[inputs.up == suite.layout.offset(loud) + feature]] = True
        assert 0 < connected.sum() < len(connected)
        change = (after[site] - before[site])[live]
        assert change[:, ~connected].abs().max() == 0.0
        assert (change[:, connected].abs().amax(0) > 1e-6).all()


@pytest.mark.parametrize("activation", ["relu", "topk"])
@pytest.mark.parametrize("kind", ["attn", "mlp"])
def test_a_feature_without_connections_reaches_only_the_final_stream(
    lm: LanguageModel, trace: Trace, make_suite: Make, ragged: Ragged, kind: Any, activation: str
) -> None:
    suite = make_suite(lm, activation=activation)
    keep_all(suite, activation)
    loud, feature = Site(0, kind), 3
    layout, all_of_them = suite.layout, ragged(suite.layout)
    number = layout.offset(loud) + feature
    inputs = {}
    for site in layout.sites:
        listed = all_of_them[site]
        keep = listed.up != number
        inputs[site] = Inputs.from_pairs(listed.down[keep], listed.up[keep], layout.size(site))
    suite.connect(Connections(layout, inputs))
    before, out_before = observed(suite, trace)
    shout(suite, loud, feature)
    after, out_after = observed(suite, trace)
    for site in suite.sites:
        others = torch.ones(layout.size(site), dtype=torch.bool)
        if site == loud:
            others[feature] = False
        assert torch.equal(after[site][:, others], before[site][:, others]), site
        if site != loud:
            assert torch.equal(out_after.outputs[site.module], out_before.outputs[site.module])
    assert (out_after.residual() - out_before.residual())[trace.live].abs().min() > 0


# I5: causality


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("activation", ["topk", "relu"])
def test_a_token_changes_nothing_before_itself(
    lm: LanguageModel,
    batch: tuple[torch.Tensor, torch.Tensor],
    make_suite: Make,
    ragged: Ragged,
    mode: Mode,
    activation: str,
) -> None:
    tokens, live = batch
    suite = make_suite(lm, activation=activation)
    suite.connect(ragged(suite.layout))
    before = suite(lm.trace(tokens, live), mode)
    for t in range(1, tokens.shape[1]):
        changed = tokens.clone()
        changed[:, t] = (changed[:, t] + 17) % lm.paths.W_U.shape[1]
        after = suite(lm.trace(changed, live), mode)
        for site in suite.sites:
            one, other = (out.codes[site].dense().detach().view(*tokens.shape, -1) for out in (before, after))
            assert torch.equal(one[:, :t], other[:, :t])
            assert torch.equal(before.outputs[site.module][:, :t], after.outputs[site.module][:, :t])
        assert (before.residual() - after.residual())[:, t:][live[:, t:]].abs().max() > 1e-6


# BOS and padding


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_positions_that_are_not_text_keep_the_models_own_values(
    lm: LanguageModel, trace: Trace, make_suite: Make, ragged: Ragged, mode: Mode, activation: str
) -> None:
    suite = make_suite(lm, activation=activation)
    suite.connect(ragged(suite.layout))
    out = suite(trace, mode)
    for site in suite.sites:
        counts = out.codes[site].crow.diff().view(trace.live.shape)
        assert (counts[~trace.live] == 0).all()
        assert counts[trace.live].sum() > 0
        assert torch.equal(out.outputs[site.module][~trace.live], trace.outputs[site.module][~trace.live])
    gradients_of = gradients(suite, out)
    assert all(gradient.isfinite().all() for gradient in gradients_of.values())
    close(out.residual()[~trace.live], trace.stream(lm.paths.modules)[~trace.live])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_stands_in_the_padding_does_not_matter(
    lm: LanguageModel, trace: Trace, make_suite: Make, ragged: Ragged, mode: Mode, activation: str
) -> None:
    suite = make_suite(lm, activation=activation)  # BatchTopK: its cut is made from live positions
    suite.connect(ragged(suite.layout))
    other_padding = trace.tokens.clone()
    padding = ~trace.live
    padding[:, 0] = False
    other_padding[padding] = (other_padding[padding] + 13) % lm.paths.W_U.shape[1]
    out = suite(trace, mode)
    other = suite(lm.trace(other_padding, trace.live), mode)
    live = trace.live.flatten()
    for site in suite.sites:
        assert torch.equal(out.codes[site].dense()[live], other.codes[site].dense()[live])
        assert torch.equal(out.outputs[site.module][trace.live], other.outputs[site.module][trace.live])


def test_a_window_of_padding_has_a_gradient_of_zero(lm: LanguageModel, trace: Trace, make_suite: Make) -> None:
    suite = make_suite(lm)
    suite.connect(every_pair(suite))
    nothing = replace(trace, live=torch.zeros_like(trace.live))
    for mode in MODES:
        assert all((g == 0).all() for g in gradients(suite, suite(nothing, mode)).values())


# gradients


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("activation", ["topk", "relu", "gated"])
def test_gradients_are_those_of_finite_differences(
    lm: LanguageModel,
    trace: Trace,
    make_suite: Make,
    ragged: Ragged,
    mode: Mode,
    activation: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Along a random direction in the space of every parameter of every site."""
    # live attention patterns of Llama are rounded to float32 whatever the model is in, too coarse for differences
    softmax = torch.nn.functional.softmax
    monkeypatch.setattr(torch.nn.functional, "softmax", lambda x, dim, dtype=None: softmax(x, dim=dim))
    suite = make_suite(lm, activation=activation)
    suite.connect(ragged(suite.layout))
    generator = torch.Generator().manual_seed(3)
    names, values = zip(*((n, p.detach().clone()) for n, p in suite.named_parameters()), strict=True)
    directions = [torch.randn(v.shape, dtype=v.dtype, generator=generator) for v in values]

    def functional(amounts: torch.Tensor) -> torch.Tensor:
        moved = {
            name: value + amount * direction
            for name, value, amount, direction in zip(names, values, amounts, directions, strict=True)
        }
        return linear(torch.func.functional_call(suite, moved, (trace, mode))) / 100

    amounts = torch.zeros(len(names), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(functional, (amounts,), eps=1e-6, atol=1e-6, rtol=1e-5, fast_mode=True)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_backends_agree_on_a_whole_pass(
    lm: LanguageModel, trace: Trace, make_suite: Make, ragged: Ragged, activation: str
) -> None:
    suite = make_suite(lm, activation=activation)
    suite.connect(ragged(suite.layout))
    found = []
    for backend in ("reference", "cpu"):
        with kernels.use(backend):
            out = suite(trace, aux=AUX)
            found.append((out, gradients(suite, out)))
    (reference, expected), (cpu, ours) = found
    for site in suite.sites:
        assert torch.equal(reference.codes[site].crow, cpu.codes[site].crow)
        close(cpu.codes[site].dense(), reference.codes[site].dense())
    close(cpu.residual(), reference.residual())
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_pass_in_parts_is_the_whole_pass(
    lm: LanguageModel, trace: Trace, make_suite: Make, ragged: Ragged, activation: str
) -> None:
    suite = make_suite(lm, activation=activation, auxk=AuxK(k=3, dead_after=100))
    for site in suite.sites:
        suite[site].tokens_since_fired[2:8] = 100
    suite.connect(ragged(suite.layout))
    whole = suite(trace, aux=AUX)
    suite.chunk_mb = 0  # a window at a time
    parts = suite(trace, aux=AUX)
    for site in suite.sites:
        close(parts.aux["revived"][site], whole.aux["revived"][site])
    same(suite, parts, whole)
