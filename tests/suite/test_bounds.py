"""One token must not decide what a suite does: the failure is built on purpose, and then stopped.

A rare token has an embedding 30 times as long as others (GPT-2 and Llama have such activations), and every transcoder
has one feature that is silent on ordinary text and answers to what its MLP reads at that token.
"""

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_units import opened

from scae.data import TokenWindows
from scae.lm import Trace
from scae.objectives import Objective
from scae.objectives.terms import LogitKl, Recon
from scae.sites import Site
from scae.suite import Mode, Suite
from scae.suite.passes import true_inputs
from scae.training import bound_from_data, start_from_data

Make = Callable[..., Any]
RARE, AT = 39, (0, 4)
MODES: tuple[Mode, ...] = ("plain", "spliced", "dense", "pruned")


def windows(*, rare: bool) -> TokenWindows:
    tokens = torch.randint(RARE, (40, 10), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    if rare:
        tokens[AT] = RARE
    return TokenWindows(tokens=tokens, lengths=torch.full((40,), 10).int(), bos=True)


@pytest.fixture(scope="module")
def scene(tiny: SimpleNamespace, make_suite: Make, ragged: Make) -> SimpleNamespace:
    """A suite that extrapolates, and ordinary text without and with the token that it has not seen."""
    hf = copy.deepcopy(tiny.hf).float()
    hf.get_input_embeddings().weight.data[RARE] *= 30
    lm = opened(hf)
    suite = make_suite(lm, n_features=24).float()
    ordinary, rare = (lm.trace(*windows(rare=rare).batch(range(40))) for rare in (False, True))
    for site in suite.sites:
        suite[site].ceiling.fill_(torch.inf)
        suite[site].encoder.b.data.zero_()
        suite[site].decoder.normalise()
        suite[site].encoder.W.data.copy_(suite[site].decoder.W.data)  # as in a new dictionary
    start_from_data(suite, [windows(rare=False).batch(range(40))], centred=True, furthest=0.01)
    usual = dict(true_inputs(suite, ordinary))
    for site, x in true_inputs(suite, rare):
        dictionary = suite[site]
        if not dictionary.transcoder:
            continue
        direction = torch.nn.functional.normalize(dictionary.reads.enter(x[AT][None])[0], dim=0)
        reach = (dictionary.reads.enter(usual[site][ordinary.live]) @ direction).max()
        dictionary.encoder.W.data[0] = 300 * direction
        dictionary.encoder.b.data[0] = -300 * reach
    suite.connect(ragged(suite.layout))
    return SimpleNamespace(suite=suite, ordinary=ordinary, rare=rare)


def bounded(scene: SimpleNamespace) -> Suite:
    suite = copy.copy(scene.suite)
    bound_from_data(suite, [scene.ordinary], margin=2.0)
    return suite


def unbounded(scene: SimpleNamespace) -> Suite:
    for site in scene.suite.sites:
        scene.suite[site].ceiling.fill_(torch.inf)
    return scene.suite


def objective(kind: str) -> Objective:
    return Objective([Recon(weight=1.0, kind=kind, knee=4.0), LogitKl(weight=1.0, temperature=1.0)])


def loss_and_share(suite: Suite, trace: Trace, mode: Mode, kind: str) -> tuple[float, float]:
    """The loss of a batch, and the share of its gradient, with respect to all activations, that the rare token has."""
    out = suite(trace, mode=mode)
    for code in out.codes.values():
        code.value.retain_grad()
    loss = objective(kind)(out, trace, suite.lm.paths)
    suite.zero_grad()
    loss.total.backward()
    square = torch.zeros(trace.live.numel())
    for code in out.codes.values():
        square.index_add_(0, code.row, code.value.grad.square())
    by_token = square.sqrt().view(trace.live.shape)
    return float(loss.total.detach()), float(by_token[AT] / by_token.sum())


@pytest.mark.parametrize("mode", MODES)
def test_without_a_bound_one_token_owns_the_loss(scene: SimpleNamespace, mode: Mode) -> None:
    suite = unbounded(scene)
    loss, _ = loss_and_share(suite, scene.rare, mode, "fvu")
    without, _ = loss_and_share(suite, scene.ordinary, mode, "fvu")
    assert loss > 4 * without


@pytest.mark.parametrize("mode", MODES)
def test_with_a_bound_it_does_not(scene: SimpleNamespace, mode: Mode) -> None:
    suite = bounded(scene)
    out = suite(scene.rare, mode=mode)
    for site, code in out.codes.items():
        assert (code.value <= suite[site].ceiling[code.col]).all()
        assert out.outputs[site.module].isfinite().all()
    loss, share = loss_and_share(suite, scene.rare, mode, "huber")
    without, _ = loss_and_share(suite, scene.ordinary, mode, "huber")
    assert loss < 1.2 * without
    assert share < 0.05


def test_an_activation_at_its_ceiling_has_no_gradient(scene: SimpleNamespace) -> None:
    suite = bounded(scene)
    out = suite(scene.rare, mode="plain")
    site = Site(0, "mlp")
    code = out.codes[site]
    cut = code.value >= suite[site].ceiling[code.col]
    assert cut.any()
    suite.zero_grad()
    code.value[cut].sum().backward()
    assert suite[site].encoder.W.grad is None or (suite[site].encoder.W.grad == 0).all()


def test_a_bound_leaves_text_like_its_sample_alone(scene: SimpleNamespace) -> None:
    before = unbounded(scene)(scene.ordinary, mode="plain")
    values = {site: code.value.clone() for site, code in before.codes.items()}
    after = bounded(scene)(scene.ordinary, mode="plain")
    for site, code in after.codes.items():
        assert torch.equal(code.value, values[site])
    for site in scene.suite.sites:
        seen = torch.zeros_like(scene.suite[site].ceiling).scatter_reduce(
            0, after.codes[site].col, after.codes[site].value.detach(), "amax"
        )
        fired = seen > 0
        expected = 2 * seen.clamp_min(float(seen[fired].median()))
        assert torch.equal(scene.suite[site].ceiling, expected)
