"""Dictionaries at points: the stream itself, and any activation that TransformerLens has a name for."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from scae.dictionaries import Shape, create
from scae.lm import LanguageModel, Module
from scae.objectives import Objective
from scae.objectives.terms import BlockMse, CrossEntropy, LogitKl, Recon
from scae.sites import Site
from scae.suite import Suite
from scae.suite.files import load, save

Build = Callable[[str], SimpleNamespace]


def suite_at(lm: LanguageModel, *sites: Site) -> Suite:
    """One of random weights; what stands at its points is in every trace from now on."""
    made = {}
    for site in sites:
        width = lm.watch(site.module)
        made[site] = create(Shape(11, width, width, site.transcoder), type="topk", k=3)
    generator = torch.Generator().manual_seed(0)
    suite = Suite(made, lm).double()
    for parameter in suite.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.3
    return suite


@pytest.fixture
def lm(build_tiny: Build, architecture: str) -> LanguageModel:
    """One of its own: what is watched stays watched."""
    shared = build_tiny(architecture).lm
    return LanguageModel(shared.bridge, shared.tokenizer, shared.paths, bos=shared.bos)


RESID, INSIDE = Site(0, "resid"), Site.at("blocks.1.attn.hook_z")


def test_a_trace_holds_what_stands_at_the_points(lm: LanguageModel, batch: tuple[Any, Any]) -> None:
    before = lm.trace(*batch)
    suite_at(lm, RESID, INSIDE)
    trace = lm.trace(*batch)
    first = [module for module in lm.paths.modules if module.layer == 0]
    torch.testing.assert_close(trace.outputs[RESID.module], trace.stream(first), rtol=1e-12, atol=1e-12)
    n_heads, d_head = lm.paths.W_O.shape[1:3]
    assert trace.outputs[INSIDE.module].shape == (*batch[0].shape, n_heads * d_head)
    for module, value in before.outputs.items():
        assert torch.equal(trace.outputs[module], value)


def test_a_pass_over_an_older_trace_says_so(lm: LanguageModel, batch: tuple[Any, Any]) -> None:
    old = lm.trace(*batch)
    with pytest.raises(ValueError, match=r"older than the suite: it does not hold what stands at 0\.resid"):
        suite_at(lm, RESID)(old, mode="plain")


@pytest.mark.parametrize(
    ("hook", "told"),
    [
        ("blocks.0.hook_nowhere", "hook_nowhere"),
        ("blocks.7.hook_resid_post", r"blocks\.7\.hook_resid_post"),
        ("blocks.0.attn.hook_pattern", r"one vector a token, .* found \(2, \d, 3, 3\)"),
    ],
)
def test_what_is_no_point_is_refused(lm: LanguageModel, hook: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        lm.watch(Site.at(hook).module)
    assert not lm.widths


def test_the_spliced_pass_puts_the_reconstruction_into_the_live_model(
    lm: LanguageModel, batch: tuple[Any, Any]
) -> None:
    """By hand: the stream after layer 0 is replaced where there is text, and the rest of the model runs on it."""
    suite = suite_at(lm, RESID)
    trace = lm.trace(*batch)
    out = suite(trace, mode="spliced")
    x = trace.outputs[RESID.module]
    code = suite[RESID].encode(x.flatten(0, 1), trace.live.flatten())
    rebuilt = torch.where(trace.live[..., None], suite[RESID].decode(code).view_as(x), x)
    torch.testing.assert_close(out.outputs[RESID.module], rebuilt)
    kept: dict[str, torch.Tensor] = {}
    lm.bridge.run_with_hooks(
        trace.tokens,
        fwd_hooks=[
            ("blocks.0.hook_resid_post", lambda value, hook: rebuilt),
            (f"blocks.{lm.paths.n_layers - 1}.hook_resid_post", lambda value, hook: kept.update(end=value)),
        ],
    )
    torch.testing.assert_close(out.residual(), kept["end"])
    torch.testing.assert_close(out.residual(0), rebuilt)


def test_gradients_of_what_the_model_makes_of_it_reach_the_dictionary(
    lm: LanguageModel, batch: tuple[Any, Any]
) -> None:
    """By finite differences, for a loss on the stream after the last layer, on predictions and on text."""
    suite = suite_at(lm, RESID)
    trace = lm.trace(*batch)
    last = lm.paths.n_layers - 1
    for term in (BlockMse(weight=1.0, layers=[last]), LogitKl(weight=1.0, temperature=1.0), CrossEntropy(weight=1.0)):
        objective = Objective([term])

        def loss(objective: Objective = objective) -> torch.Tensor:
            return objective(suite(trace, mode="spliced"), trace, lm.paths).total

        W = suite[RESID].decoder.W
        (grad,) = torch.autograd.grad(loss(), W)
        direction = torch.randn(W.shape, generator=torch.Generator().manual_seed(1), dtype=W.dtype)
        step = 1e-3  # some models take their softmax in float32, whatever they are asked for
        with torch.no_grad():
            W += step * direction
            above = loss()
            W -= 2 * step * direction
            below = loss()
            W += step * direction
        assert float(grad.abs().max()) > 0
        torch.testing.assert_close((grad * direction).sum(), (above - below) / (2 * step), rtol=2e-3, atol=1e-6)


def test_the_plain_pass_rebuilds_and_predicts_nothing(lm: LanguageModel, batch: tuple[Any, Any]) -> None:
    suite = suite_at(lm, RESID, INSIDE)
    trace = lm.trace(*batch)
    out = suite(trace, mode="plain")
    assert set(out.reconstructions) == {RESID, INSIDE}
    objective = Objective([Recon(weight=1.0, kind="fvu", knee=1.0)])
    assert float(objective(out, trace, lm.paths).total.detach()) > 0
    with pytest.raises(ValueError, match="known in the spliced pass alone"):
        out.residual()


@pytest.mark.parametrize("mode", ["dense", "pruned"])
@pytest.mark.parametrize("site", [RESID, INSIDE, Site(0, "mlp_out")], ids=str)
def test_no_path_no_pruned_pass(lm: LanguageModel, batch: tuple[Any, Any], site: Site, mode: Any) -> None:
    suite = suite_at(lm, Site(1, "mlp"), site)
    with pytest.raises(ValueError, match=f"no linear path of the residual stream leads to {site}"):
        suite(lm.trace(*batch), mode=mode)


def test_an_autoencoder_of_what_an_mlp_writes(lm: LanguageModel, batch: tuple[Any, Any]) -> None:
    """It predicts in the plain pass like any module's dictionary."""
    site = Site(0, "mlp_out")
    suite, trace = suite_at(lm, site), lm.trace(*batch)
    out = suite(trace, mode="plain")
    written = trace.outputs[site.module]
    code = suite[site].encode(written.flatten(0, 1), trace.live.flatten())
    ours = torch.where(trace.live[..., None], suite[site].decode(code).view_as(written), written)
    change = ours - written
    torch.testing.assert_close(out.residual(), trace.stream(lm.paths.modules) + change)


def test_a_suite_at_points_is_stored(lm: LanguageModel, batch: tuple[Any, Any], tmp_path: Path) -> None:
    suite = suite_at(lm, RESID, INSIDE)
    save(suite, tmp_path)
    again, suite = load(tmp_path, lm).double(), suite.float().double()
    assert again.sites == suite.sites == (RESID, INSIDE)
    trace = lm.trace(*batch)
    assert torch.equal(again(trace, mode="spliced").residual(), suite(trace, mode="spliced").residual())


def test_nothing_replaced_is_the_model_bit_for_bit(lm: LanguageModel, batch: tuple[Any, Any]) -> None:
    for site in (RESID, INSIDE):
        lm.watch(site.module)
    trace = lm.trace(*batch)
    wrote = lm.splice(trace, lambda module, read, own: own, readers=())
    for module, value in trace.outputs.items():
        assert torch.equal(wrote[module], value)
    ends = Module(lm.paths.n_layers - 1, "resid")
    torch.testing.assert_close(wrote[ends], trace.stream(lm.paths.modules), rtol=1e-12, atol=1e-12)
