"""I7: the unit of a model's residual stream changes no number of an experiment, bit for bit on the CPU."""

import copy
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from scae.config import Anneal, AuxK, Connectivity, Refit
from scae.connections import Connections
from scae.data import TokenWindows
from scae.dictionaries import Unit
from scae.evaluation import Arm, Bypass, evaluate
from scae.lm import LanguageModel, wrap
from scae.objectives import LossOutput, Objective
from scae.objectives.terms import AuxK as AuxKTerm
from scae.objectives.terms import BlockMse, LogitKl, Partial, Recon, Sparsity
from scae.selection import choose
from scae.sites import Kind
from scae.suite import Mode, Suite, choose_sites
from scae.training import bound_from_data, refit, start_from_data
from scae.training.revive import look

Make = Callable[..., Any]
WRITERS = {
    "gpt2": (
        "wte.weight",
        "wpe.weight",
        "attn.c_proj.weight",
        "attn.c_proj.bias",
        "mlp.c_proj.weight",
        "mlp.c_proj.bias",
    ),
    "neox": ("embed_in.weight", "dense.weight", "attention.dense.bias", "dense_4h_to_h.weight", "dense_4h_to_h.bias"),
    "llama": ("embed_tokens.weight", "o_proj.weight", "down_proj.weight"),
}
"""What writes to the residual stream."""
EPSILON = {"gpt2": "layer_norm_epsilon", "neox": "layer_norm_eps", "llama": "rms_norm_eps"}


def in_other_units(hf: Any, architecture: str, factor: float) -> Any:
    """The same function, its residual stream multiplied by `factor`."""
    hf = copy.deepcopy(hf)
    tied = hf.get_output_embeddings().weight is hf.get_input_embeddings().weight
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if name.endswith(WRITERS[architecture]):
                parameter.mul_(factor)
            if tied and name.endswith(("ln_f.weight", "ln_f.bias", "model.norm.weight")):
                parameter.div_(factor)
    setattr(hf.config, EPSILON[architecture], getattr(hf.config, EPSILON[architecture]) * factor**2)
    for module in hf.modules():
        for name in ("eps", "variance_epsilon"):
            if hasattr(module, name):
                setattr(module, name, getattr(module, name) * factor**2)
    return hf


def opened(hf: Any) -> LanguageModel:
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bridge = build_bridge_from_module(
            hf, architecture=type(hf).__name__, hf_config=hf.config, tokenizer=None, device="cpu", dtype=torch.float32
        )
        return wrap(bridge, None, bos=True, dtype=torch.float32)


OFFERS = {
    "topk": set(),
    "relu": {"penalty"},
    "batchtopk": set(),
    "jumprelu": {"penalty"},
    "matryoshka": {"partial"},
    "gated": {"penalty", "partial"},
    "groupmax": set(),
}


def everything(activation: str) -> Objective:
    """Every term that compares what a site or a layer computes; cross-entropy has no unit to begin with."""
    return Objective(
        [
            Recon(weight=1.0, kind="fvu", knee=4.0),
            Recon(weight=0.5, kind="mse", knee=4.0),
            BlockMse(weight=0.1, layers="all"),
            LogitKl(weight=1.0, temperature=1.0),
            Sparsity(weight=0.01),
            Partial(weight=0.3, kind="huber", knee=0.5),
            AuxKTerm(weight=0.1),
        ],
        offers=OFFERS[activation] | {"revived"},
    )


def trained(suite: Suite, windows: TokenWindows, objective: Objective, mode: Mode, steps: range) -> list[LossOutput]:
    """What a training step does, without Lightning around it. Where k falls, it does so within these steps."""
    losses = []
    optimiser = torch.optim.Adam(suite.parameters(), lr=3e-3)
    for step in steps:
        for picking in suite.picking:
            picking.done = steps.index(step) / len(steps)
        batch = windows.batch(range(4 * step, 4 * step + 4))
        trace = suite.lm.trace(batch.tokens, batch.live)
        out = suite(trace, mode=mode, aux=objective.aux)
        loss = objective(out, trace, suite.lm.paths)
        optimiser.zero_grad()
        loss.total.backward()
        for site in suite.sites:
            suite[site].decoder.project_gradient()
            torch.nn.utils.clip_grad_norm_(suite[site].parameters(), 1.0)
        optimiser.step()
        for site in suite.sites:
            suite[site].decoder.normalise()
            suite[site].count_firing(out.codes[site].fired(), int(trace.live.sum()))
        losses.append(loss)
    return losses


def experiment(
    lm: LanguageModel,
    make_suite: Make,
    activation: str,
    windows: TokenWindows,
    kinds: tuple[Kind, ...] = ("attn", "mlp"),
    anneal: Anneal | None = None,
) -> SimpleNamespace:
    """Start, pretrain, bound, select, finetune and evaluate."""
    auxk = AuxK(k=3, dead_after=40)
    sites = choose_sites(lm.paths, "all", kinds)
    suite = make_suite(lm, activation=activation, n_features=24, sites=sites, auxk=auxk).float()
    for picking in suite.picking:
        picking.anneal = anneal
    objective = everything(activation)
    traces = [lm.trace(batch.tokens, batch.live) for batch in map(windows.batch, (range(12), range(12, 24)))]
    start_from_data(suite, [windows.batch(range(12))], centred=activation != "relu", furthest=0.01)
    losses = trained(suite, windows, objective, "plain", range(6)) + trained(
        suite, windows, objective, "spliced", range(2)
    )
    bound_from_data(suite, traces, margin=1.2)
    selection = Connectivity(
        method="contribution",
        C=8,
        scope="joint",
        budget="by_score",
        spread=2,
        weighting="activation",
        tokens=1,
        chunk_mb=1,
        path=None,
    )
    connections, statistics = choose(selection, suite, lambda: traces, seed=0)
    suite.connect(connections)
    refit(suite, traces[0], "pruned", Refit(tokens=1, rounds=2, steps=4, ridge=0.3, drawn=3), seed=0)
    out, best = look(suite, traces[1], "pruned")
    for site, one in best.items():
        use = one.use(suite[site], traces[1].outputs[site.module] - out.outputs[site.module])
        suite[site].encoder.b.data += torch.where(use > 0, -one.margin, 0).clamp_min(0)
    losses += trained(suite, windows, objective, "pruned", range(6, 12))
    arms = [Arm(mode, suite, mode) for mode in ("plain", "dense", "pruned")]
    metrics = evaluate(lm, arms, lambda: traces, [Bypass("pruned")]) | statistics
    codes = [code for trace in traces for code in suite(trace).codes.values()]
    return SimpleNamespace(suite=suite, losses=losses, connections=connections, metrics=metrics, codes=codes)


@pytest.fixture(scope="module")
def windows() -> TokenWindows:
    tokens = torch.randint(40, (50, 10), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    lengths = torch.where(torch.arange(50) % 3 == 0, 7, 10).int()
    return TokenWindows(tokens=tokens, lengths=lengths, bos=True)


VARIATIONS: list[Any] = [
    *(pytest.param(name, {}, id=name) for name in OFFERS),
    pytest.param("topk", {"kinds": ("attn", "clt")}, id="crosslayer"),
    pytest.param("topk", {"anneal": Anneal(share=0.8, k_start=9)}, id="annealed"),
]


@pytest.mark.parametrize(("activation", "more"), VARIATIONS)
def test_the_unit_of_the_stream_changes_nothing(
    tiny: SimpleNamespace, make_suite: Make, windows: TokenWindows, activation: str, more: dict[str, Any]
) -> None:
    factor = 2.0**7
    hf = copy.deepcopy(tiny.hf).float()
    lms = [opened(copy.deepcopy(hf)), opened(in_other_units(hf, tiny.architecture, factor))]
    batch = windows.batch(range(3))
    one, other = (lm.trace(batch.tokens, batch.live) for lm in lms)
    for module, output in one.outputs.items():
        assert torch.equal(output * factor, other.outputs[module]), f"{module} of the model itself"
    one, other = (experiment(lm, make_suite, activation, windows, **more) for lm in lms)
    for ours, theirs in zip(one.losses, other.losses, strict=True):
        assert ours.terms == theirs.terms
    assert one.losses[0].terms["auxk"].isfinite()
    assert one.connections == other.connections
    assert 0 < len(one.connections) < len(Connections.complete(one.suite.layout))
    assert one.metrics == other.metrics
    for ours, theirs in zip(one.codes, other.codes, strict=True):
        assert torch.equal(ours.crow, theirs.crow)
        assert torch.equal(ours.col, theirs.col)
        assert torch.equal(ours.value, theirs.value)
    assert all(torch.equal(p, q) for p, q in zip(one.suite.parameters(), other.suite.parameters(), strict=True))
    last = one.suite.sites[-1]
    assert torch.equal(one.suite[last].writes.scale * factor, other.suite[last].writes.scale)


@pytest.mark.parametrize("centred", [True, False])
def test_a_unit_makes_inputs_of_mean_square_one_whatever_a_few_tokens_do(centred: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = 30 + 7 * torch.randn(1000, 16, generator=generator, dtype=torch.float64)
    unit = Unit(16).double()
    mean = unit.measure(x, centred=centred, furthest=0.01)
    u = unit.enter(x)
    assert float(u.square().sum(1).mean()) == pytest.approx(16, rel=0.03)
    torch.testing.assert_close(unit.leave(u), x)
    assert float(mean.norm()) == pytest.approx(0 if centred else 4, abs=0.2)
    scale = float(unit.scale)
    x[::200] *= 1000
    unit.measure(x, centred=centred, furthest=0.01)
    assert float(unit.scale) == pytest.approx(scale, rel=0.02)
    unit.measure(x, centred=centred, furthest=0.0)
    assert float(unit.scale) > 10 * scale


def test_the_unit_of_a_constant_is_one() -> None:
    unit = Unit(4)
    unit.measure(torch.full((7, 4), 3.0), centred=True, furthest=0.01)
    assert unit.scale == 1
    assert torch.equal(unit.enter(torch.full((2, 4), 3.0)), torch.zeros(2, 4))
