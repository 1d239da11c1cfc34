"""Every loss term against a direct computation, one number at a time; BOS and padding never enter."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from scae.config import Anneal, AnySae, AuxK, Bound, Loss, Mlp, Pursuit, TopKSae, VanillaSae
from scae.config.loss import WANTS
from scae.lm import LanguageModel, LinearPaths, Trace
from scae.objectives import Comparison, Objective
from scae.objectives.terms import TERMS, BlockMse, CrossEntropy, LogitKl, Partial, Recon, Sparsity, Term
from scae.objectives.terms import AuxK as AuxKTerm
from scae.suite import Suite, SuiteOutput

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def suite(lm: LanguageModel, make_suite: Make, ragged: Make, all_sites: Make) -> Suite:
    suite = make_suite(lm, activation="relu", sites=all_sites(lm)[:-1])  # the last module keeps its own output
    suite.connect(ragged(suite.layout))
    return suite


@pytest.fixture
def out(suite: Suite, trace: Trace) -> SuiteOutput:
    return suite(trace, "pruned", aux=["penalty", "revived"])


def value(term: Term, out: SuiteOutput, trace: Trace, lm: LanguageModel) -> float:
    return float(term(Comparison(out, trace, lm.paths)).detach())


def live_positions(trace: Trace) -> list[tuple[int, int]]:
    return [(int(b), int(t)) for b, t in trace.live.nonzero()]


def scored_positions(trace: Trace) -> list[tuple[int, int]]:
    """Text positions followed by a text position."""
    live = set(live_positions(trace))
    return [(b, t) for b, t in sorted(live) if (b, t + 1) in live]


def log_softmax(row: np.ndarray) -> np.ndarray:
    return row - row.max() - np.log(np.exp(row - row.max()).sum())


def logits(lm: LanguageModel, streams: list[torch.Tensor], b: int, t: int, architecture: str) -> np.ndarray:
    """The sum of what was written, through the live final normalisation and the unembedding."""
    x = sum(stream[b, t].detach().numpy() for stream in streams)
    if architecture != "llama":
        x = x - x.mean()
    x = x / np.sqrt((x**2).mean() + lm.paths.eps)
    return x @ lm.paths.W_U.numpy() + lm.paths.b_U.numpy()


def test_fvu(suite: Suite, out: SuiteOutput, trace: Trace, lm: LanguageModel) -> None:
    at = live_positions(trace)
    total = 0.0
    for site in suite.sites:
        y = np.stack([trace.outputs[site.module][p].numpy() for p in at])
        y_hat = np.stack([out.outputs[site.module][p].detach().numpy() for p in at])
        mean = sum(y) / len(y)
        total += sum(((a - b) ** 2).sum() for a, b in zip(y, y_hat, strict=True)) / sum(
            ((a - mean) ** 2).sum() for a in y
        )
    assert value(Recon(weight=1.0, kind="fvu", knee=4.0), out, trace, lm) == pytest.approx(total, rel=1e-10)


def test_mse(suite: Suite, out: SuiteOutput, trace: Trace, lm: LanguageModel) -> None:
    at = live_positions(trace)
    total = 0.0
    for site in suite.sites:
        unit = float(suite[site].writes.scale)
        errors = [(trace.outputs[site.module][p] - out.outputs[site.module][p]).detach().numpy() for p in at]
        squares = [(error**2).mean() / unit**2 for error in errors]
        total += sum(squares) / len(squares)
    assert value(Recon(weight=1.0, kind="mse", knee=4.0), out, trace, lm) == pytest.approx(total, rel=1e-10)


def test_huber_is_mse_up_to_the_knee_and_linear_in_the_error_beyond(
    suite: Suite, out: SuiteOutput, trace: Trace, lm: LanguageModel
) -> None:
    far = Recon(weight=1.0, kind="huber", knee=1e9)
    assert value(far, out, trace, lm) == value(Recon(weight=1.0, kind="mse", knee=1.0), out, trace, lm)
    site = suite.sites[0]
    unit, n_live = float(suite[site].writes.scale), len(live_positions(trace))
    target = trace.outputs[site.module]
    clean = untouched(replace(out, codes={site: out.codes[site]}), trace)

    def with_error(length: float) -> tuple[float, float]:
        """The loss where one token's error is `length` times the knee, and its slope there."""
        error = torch.tensor(length * unit * 2.0, dtype=torch.float64, requires_grad=True)
        at = live_positions(trace)[0]
        moved = target.clone()
        moved[at] += error
        loss = Recon(weight=1.0, kind="huber", knee=4.0)(
            Comparison(replace(clean, outputs=clean.outputs | {site.module: moved}), trace, lm.paths)
        )
        return float(loss.detach()) * n_live, float(torch.autograd.grad(loss, error)[0])

    assert with_error(0.5)[0] == pytest.approx(1.0)
    assert with_error(1.0)[0] == pytest.approx(4.0)
    assert with_error(100.0)[0] == pytest.approx(2 * 4 * 100 - 4)
    assert with_error(100.0)[1] == pytest.approx(with_error(1.0)[1])
    assert with_error(0.5)[1] == pytest.approx(with_error(1.0)[1] / 2)


def test_the_gradient_of_fvu_reaches_every_parameter_of_every_site(
    lm: LanguageModel, trace: Trace, make_suite: Make
) -> None:
    """Of b_dec it is, at a transcoder, -2 unit sum (y - yhat) / sum ||y - mean y||^2: nothing is centred on the way."""
    suite = make_suite(lm)
    out = suite(trace, "plain")
    Recon(weight=1.0, kind="fvu", knee=4.0)(Comparison(out, trace, lm.paths)).backward()
    for name, parameter in suite.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-6, name
    for site in suite.sites:
        if site.transcoder:
            y, y_hat = trace.outputs[site.module][trace.live], out.outputs[site.module][trace.live].detach()
            expected = -2 * suite[site].writes.scale * (y - y_hat).sum(0) / (y - y.mean(0)).square().sum()
            torch.testing.assert_close(suite[site].decoder.b.grad, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("layers", ["all", [1], [0, 1]])
def test_block_mse(out: SuiteOutput, trace: Trace, lm: LanguageModel, layers: Any) -> None:
    at, chosen = live_positions(trace), range(lm.paths.n_layers) if layers == "all" else layers
    total = 0.0
    for layer in chosen:
        modules = [module for module in lm.paths.modules if module.layer <= layer]
        clean, error = [], 0.0
        for p in at:
            gap = sum((out.outputs[m][p] - trace.outputs[m][p]).detach().numpy() for m in modules)
            clean.append(trace.embed[p].numpy() + sum(trace.outputs[m][p].numpy() for m in modules))
            error += float((gap**2).sum())
        mean = sum(clean) / len(clean)
        total += error / sum(((x - mean) ** 2).sum() for x in clean) / len(chosen)
    assert total > 1e-3
    assert value(BlockMse(weight=1.0, layers=layers), out, trace, lm) == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_logit_kl(out: SuiteOutput, trace: Trace, lm: LanguageModel, architecture: str, temperature: float) -> None:
    clean = lm.bridge(trace.tokens).detach().numpy()  # the model's own head
    total, at = 0.0, scored_positions(trace)
    for b, t in at:
        p = log_softmax(clean[b, t] / temperature)
        q = log_softmax(logits(lm, [trace.embed, *out.outputs.values()], b, t, architecture) / temperature)
        total += temperature**2 * float((np.exp(p) * (p - q)).sum()) / len(at)
    assert total > 1e-3
    term = LogitKl(weight=1.0, temperature=temperature)
    assert value(term, out, trace, lm) == pytest.approx(total, rel=1e-6)


def test_ce(out: SuiteOutput, trace: Trace, lm: LanguageModel, architecture: str) -> None:
    at = scored_positions(trace)
    total = 0.0
    for b, t in at:
        q = log_softmax(logits(lm, [trace.embed, *out.outputs.values()], b, t, architecture))
        total -= float(q[trace.tokens[b, t + 1]]) / len(at)
    assert value(CrossEntropy(weight=1.0), out, trace, lm) == pytest.approx(total, rel=1e-9)


def untouched(out: SuiteOutput, trace: Trace) -> SuiteOutput:
    return replace(out, outputs=dict(trace.outputs))


def test_a_suite_that_writes_what_the_model_writes_loses_nothing(
    out: SuiteOutput, trace: Trace, lm: LanguageModel
) -> None:
    perfect = untouched(out, trace)
    for term in (
        Recon(weight=1.0, kind="fvu", knee=4.0),
        Recon(weight=1.0, kind="mse", knee=4.0),
        BlockMse(weight=1.0, layers="all"),
        LogitKl(weight=1.0, temperature=1.0),
        LogitKl(weight=1.0, temperature=2.0),
    ):
        assert value(term, perfect, trace, lm) == pytest.approx(0.0, abs=1e-12)
        assert value(term, out, trace, lm) > 1e-3


def test_the_mean_predictor_has_a_fvu_of_one_a_site(
    suite: Suite, out: SuiteOutput, trace: Trace, lm: LanguageModel
) -> None:
    means = {module: o[trace.live].mean(0).expand_as(o) for module, o in trace.outputs.items()}
    constant = replace(out, outputs=means)
    assert value(Recon(weight=1.0, kind="fvu", knee=4.0), constant, trace, lm) == pytest.approx(
        len(suite.sites), rel=1e-10
    )


def test_sparsity(suite: Suite, out: SuiteOutput, trace: Trace, lm: LanguageModel) -> None:
    total = sum(float(out.codes[site].dense().detach().abs().sum()) for site in suite.sites)
    assert value(Sparsity(weight=1.0), out, trace, lm) == pytest.approx(total / int(trace.live.sum()), rel=1e-10)


@pytest.mark.parametrize("kind", ["fvu", "mse", "huber"])
def test_partial_reconstructions_cost_what_reconstructions_cost(
    suite: Suite, out: SuiteOutput, trace: Trace, lm: LanguageModel, kind: str
) -> None:
    """Of each of them the loss that it would have were it the reconstruction, with their gradients; by token, too."""
    generator = torch.Generator().manual_seed(0)
    size = (2, *trace.embed.flatten(0, 1).shape)
    partial = {
        site: torch.randn(size, dtype=torch.float64, generator=generator).requires_grad_() for site in suite.sites[:3]
    }
    term = Partial(weight=1.0, kind=kind, knee=0.5)
    comparison = Comparison(replace(out, aux={"partial": partial}), trace, lm.paths)
    recon, total = Recon(weight=1.0, kind=kind, knee=0.5), torch.zeros((), dtype=torch.float64)
    for number in range(2):
        outputs = {site.module: one[number].view(trace.embed.shape) for site, one in partial.items()}
        codes = {site: out.codes[site] for site in partial}
        total = total + recon(Comparison(replace(out, codes=codes, outputs=outputs), trace, lm.paths))
    ours, theirs = (
        torch.autograd.grad(loss, list(partial.values()), retain_graph=True) for loss in (term(comparison), total)
    )
    assert term(comparison).item() == pytest.approx(total.item(), rel=1e-12)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)
    by_token = term.by_token(comparison)
    assert set(by_token) == {f"the partial reconstructions at {site}" for site in partial}
    assert sum(each.sum().item() for each in by_token.values()) == pytest.approx(total.item(), rel=1e-12)


def test_what_a_term_wants_is_known_without_torch() -> None:
    """`scae.config` names what a term wants beside it, so that the plan leaves out what has nothing to weigh."""
    assert {name: term.aux for name, term in TERMS.items() if term.aux is not None} == WANTS
    assert list(TERMS) == list(Loss.model_fields)


def test_auxk_is_the_share_of_the_error_that_dead_features_leave(
    suite: Suite, out: SuiteOutput, trace: Trace, lm: LanguageModel
) -> None:
    term, generator = AuxKTerm(weight=1.0), torch.Generator().manual_seed(0)
    sites = suite.sites[:2]
    revived = {
        site: torch.randn(trace.embed.flatten(0, 1).shape, dtype=torch.float64, generator=generator).requires_grad_()
        for site in sites
    }
    n_pos = trace.live.shape[1]
    written = {module: o.detach().clone().requires_grad_() for module, o in out.outputs.items()}
    both = replace(out, outputs=written, aux={"revived": revived})
    total = 0.0
    for site in sites:
        left = whole = 0.0
        for p in live_positions(trace):
            e = (trace.outputs[site.module][p] - out.outputs[site.module][p]).detach().numpy()
            left += float(((e - revived[site][p[0] * n_pos + p[1]].detach().numpy()) ** 2).sum())
            whole += float((e**2).sum())
        total += left / whole
    loss = term(Comparison(both, trace, lm.paths))
    assert float(loss.detach()) == pytest.approx(total, rel=1e-10)
    loss.backward()
    for site in sites:
        assert written[site.module].grad is None  # the error is a target here, not something to lower
        grad = revived[site].grad
        assert grad is not None
        assert grad[trace.live.flatten()].abs().max() > 0
        assert (grad[~trace.live.flatten()] == 0).all()

    errors = {site: (trace.outputs[site.module] - out.outputs[site.module]).detach().flatten(0, 1) for site in sites}
    assert value(term, replace(out, aux={"revived": errors}), trace, lm) == pytest.approx(0.0, abs=1e-12)
    nothing = {site: torch.zeros_like(e) for site, e in errors.items()}
    assert value(term, replace(out, aux={"revived": nothing}), trace, lm) == pytest.approx(2.0, rel=1e-10)
    assert value(term, replace(out, aux={}), trace, lm) == 0.0


EVERY_TERM: tuple[Callable[[], Term], ...] = (
    lambda: Recon(weight=1.0, kind="fvu", knee=4.0),
    lambda: Recon(weight=1.0, kind="mse", knee=4.0),
    lambda: BlockMse(weight=1.0, layers="all"),
    lambda: LogitKl(weight=1.0, temperature=2.0),
    lambda: CrossEntropy(weight=1.0),
    lambda: Sparsity(weight=1.0),
    lambda: AuxKTerm(weight=1.0),
)


@pytest.mark.parametrize("make", EVERY_TERM)
def test_bos_and_padding_never_enter(
    suite: Suite, out: SuiteOutput, trace: Trace, lm: LanguageModel, make: Callable[[], Term]
) -> None:
    """Other token ids there, other values written there, by the model and by the suite: the same loss to the bit."""
    generator = torch.Generator().manual_seed(5)

    def disturbed(stream: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(stream.shape, dtype=stream.dtype, generator=generator)
        return torch.where(trace.live[..., None], stream, stream + 10 * noise)

    revived = {site: 0.5 * trace.outputs[site.module] for site in suite.sites}
    out = replace(out, aux=out.aux | {"revived": {site: one.flatten(0, 1) for site, one in revived.items()}})
    expected = make()(Comparison(out, trace, lm.paths))
    elsewhere = torch.where(trace.live, trace.tokens, (trace.tokens + 11) % 40)
    assert not torch.equal(elsewhere, trace.tokens)
    other_trace = replace(
        trace,
        tokens=elsewhere,
        embed=disturbed(trace.embed),
        outputs={module: disturbed(o) for module, o in trace.outputs.items()},
    )
    other_out = replace(
        out,
        embed=other_trace.embed,
        outputs={module: disturbed(o) for module, o in out.outputs.items()},
        aux=out.aux | {"revived": {site: disturbed(one).flatten(0, 1) for site, one in revived.items()}},
    )
    assert torch.equal(make()(Comparison(other_out, other_trace, lm.paths)), expected)


def test_padding_does_not_change_the_loss_of_a_whole_step(suite: Suite, trace: Trace, lm: LanguageModel) -> None:
    """The same text with more padding behind it, from the tokens on."""
    terms: list[Term] = [make() for make in EVERY_TERM[:6] if make().name != "recon"] + [
        Recon(weight=1.0, kind="fvu", knee=4.0)
    ]
    objective = Objective(terms)
    longer = torch.cat([trace.tokens, trace.tokens[:, :3]], 1)
    live = torch.cat([trace.live, torch.zeros_like(trace.live[:, :3])], 1)
    padded = lm.trace(longer, live)
    one = objective(suite(trace, "pruned", aux=objective.aux), trace, lm.paths).total
    other = objective(suite(padded, "pruned", aux=objective.aux), padded, lm.paths).total
    assert float(other.detach()) == pytest.approx(float(one.detach()), rel=1e-6)  # Llama's attention is in float32


# the weighted sum


def loss(**weights: float) -> Loss:
    of = {"recon": 0.0, "block_mse": 0.0, "logit_kl": 0.0, "ce": 0.0, "sparsity": 0.0, "partial": 0.0, "auxk": 0.0}
    of |= weights
    return Loss.model_validate(
        {
            "recon": {"weight": of["recon"], "kind": "fvu", "knee": 4.0},
            "block_mse": {"weight": of["block_mse"], "layers": "all"},
            "logit_kl": {"weight": of["logit_kl"], "temperature": 2.0},
            "ce": {"weight": of["ce"]},
            "sparsity": {"weight": of["sparsity"]},
            "partial": {"weight": of["partial"], "kind": "fvu", "knee": 4.0},
            "auxk": {"weight": of["auxk"]},
        }
    )


SHARED = {
    "features": 9,
    "expansion": None,
    "centred": True,
    "normalise": "dataset",
    "bound": Bound(margin=None, tokens=1),
    "auxk": AuxK(k=3, dead_after=100),
    "skip": False,
    "encoder": "linear",
    "mlp": Mlp(width=1, depth=1, nonlinearity="relu", skip=True, lr_factor=1.0),
    "pursuit": Pursuit(method="gradient", steps=0),
}
VANILLA: AnySae = VanillaSae(kind="vanilla", **SHARED)
TOPK: AnySae = TopKSae(kind="topk", k=4, anneal=Anneal(share=None, k_start=4), **SHARED)


def test_a_term_of_weight_zero_is_never_computed(
    out: SuiteOutput, trace: Trace, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a term of weight 0 was computed")

    monkeypatch.setattr(LinearPaths, "logits", never)
    monkeypatch.setattr(SuiteOutput, "residual", never)
    for term in (BlockMse, LogitKl, CrossEntropy, Sparsity, AuxKTerm):
        monkeypatch.setattr(term, "__call__", never)
    result = Objective.from_config(loss(recon=1.0), VANILLA)(out, trace, lm.paths)
    assert set(result.terms) == {"recon"}
    with pytest.raises(AssertionError, match="weight 0"):
        Objective.from_config(loss(ce=0.1), VANILLA)(out, trace, lm.paths)


def test_block_mse_needs_no_logits(
    out: SuiteOutput, trace: Trace, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LinearPaths, "logits", None)
    Objective.from_config(loss(recon=1.0, block_mse=1.0), VANILLA)(out, trace, lm.paths)


def test_clean_logits_are_for_kl_alone(
    out: SuiteOutput, trace: Trace, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trace, "stream", None)
    Objective.from_config(loss(ce=1.0), VANILLA)(out, trace, lm.paths)


def test_the_sum_is_weighted_and_says_what_it_was_made_of(out: SuiteOutput, trace: Trace, lm: LanguageModel) -> None:
    weights = {"recon": 0.5, "block_mse": 0.25, "logit_kl": 2.0, "ce": 3.0}
    weights |= {"sparsity": 0.01, "auxk": 1 / 32}
    result = Objective.from_config(loss(**weights), VANILLA)(out, trace, lm.paths)
    assert set(result.terms) == set(weights)
    assert float(result.terms["sparsity"]) > 1e-3
    total = sum(w * float(result.terms[name]) for name, w in weights.items())
    assert float(result.total.detach()) == pytest.approx(total, rel=1e-10)
    assert result.total.requires_grad
    assert not any(term.requires_grad for term in result.terms.values())


def test_what_no_dictionary_has_to_pay_for_is_left_out() -> None:
    """TopK picks its number: there is no penalty that `loss.sparsity` could weigh, whatever its weight."""
    weights = loss(recon=1.0, sparsity=0.01, auxk=1 / 32)
    vanilla, topk = Objective.from_config(weights, VANILLA), Objective.from_config(weights, TOPK)
    assert [term.name for term in vanilla.terms] == ["recon", "sparsity", "auxk"]
    assert vanilla.aux == {"penalty", "revived"}
    assert [term.name for term in topk.terms] == ["recon", "auxk"]
    assert topk.aux == {"revived"}
    assert "sparsity" not in str(topk)
    assert "0.01 sparsity" in str(vanilla)
    assert Objective.from_config(loss(recon=1.0), VANILLA).aux == set()
    named = [Recon(weight=1.0, kind="fvu", knee=4.0), Sparsity(weight=0.01), AuxKTerm(weight=0.1)]
    assert Objective(named).aux == {"penalty", "revived"}, "nobody says what there is: whatever a term wants"
    assert [term.name for term in Objective(named, offers=()).terms] == ["recon"]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"recon": 1.0}, False),
        ({"recon": 1.0, "ce": 0.1}, True),
        ({"logit_kl": 1.0}, True),
        ({"block_mse": 1.0}, True),
    ],
)
def test_reads_stream(weights: dict[str, float], expected: bool) -> None:
    assert Objective.from_config(loss(**weights, sparsity=0.1, auxk=0.1), VANILLA).reads_stream is expected


@pytest.mark.parametrize(("activation", "sae"), [("relu", VANILLA), ("topk", TOPK)])
def test_gradients_are_those_of_finite_differences(
    build_tiny: Make, batch: Any, make_suite: Make, ragged: Make, activation: str, sae: AnySae
) -> None:
    """Of all terms together in the pruned pass, along a random direction in the space of every parameter."""
    lm = build_tiny("gpt2").lm
    trace = lm.trace(*batch)
    suite = make_suite(lm, activation=activation)
    suite.connect(ragged(suite.layout))
    weights = {"recon": 1.0, "block_mse": 0.3, "logit_kl": 0.7, "ce": 0.5, "sparsity": 0.1}
    objective = Objective.from_config(loss(**weights), sae)
    assert ("penalty" in objective.aux) == (activation == "relu")
    generator = torch.Generator().manual_seed(3)
    names, values = zip(*((n, p.detach().clone()) for n, p in suite.named_parameters()), strict=True)
    directions = [torch.randn(v.shape, dtype=v.dtype, generator=generator) for v in values]

    def total(amounts: torch.Tensor) -> torch.Tensor:
        moved = {n: v + a * d for n, v, a, d in zip(names, values, amounts, directions, strict=True)}
        out = torch.func.functional_call(suite, moved, (trace, "pruned"), {"aux": objective.aux})
        return objective(out, trace, lm.paths).total

    amounts = torch.zeros(len(names), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(total, (amounts,), eps=1e-6, atol=1e-6, rtol=1e-5, fast_mode=True)
