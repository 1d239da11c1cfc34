"""A skip: what a transcoder writes beside its features, in the passes that read the model, and in no pruned one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scae.core.typing import Tensor
from scae.dictionaries import Dictionary, Shape, create
from scae.lm import LanguageModel, Trace
from scae.suite import Suite
from scae.suite.files import load, save

Make = Callable[..., Any]
LIVE = torch.arange(20) % 5 != 0
SPECS: dict[str, dict[str, Any]] = {
    "topk": {"type": "topk", "k": 3},
    "matryoshka": {"type": "matryoshka", "k": 3, "threshold_rate": 0.1, "groups": [0.25, 0.75]},
    "gated": {"type": "gated", "price": 1.0},
}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(spec: dict[str, Any], *, transcoder: bool = True, **more: Any) -> Dictionary:
    torch.manual_seed(0)
    dictionary = create(Shape(12, 5, 5, transcoder), **spec, **more).double()
    dictionary.reads.centre.copy_(random(5, seed=1))
    dictionary.reads.scale.fill_(0.5)
    dictionary.writes.scale.fill_(2.0)
    return dictionary


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_it_writes_a_linear_map_of_what_is_read(spec: dict[str, Any]) -> None:
    plain, skipping = made(spec), made(spec, skip=True)
    x, aux = random(20, 5, seed=9), ["penalty", "partial"]
    one, other = (each.reconstruct(each.shift(x), LIVE, aux=aux) for each in (plain, skipping))
    assert torch.equal(one[0], other[0]), "0 at first"
    assert skipping.skip is not None
    skipping.skip.W.data = random(5, 5, seed=3)
    written, (code, found) = skipping.reconstruct(skipping.shift(x), LIVE, aux=aux)
    u = (x - skipping.reads.centre) / skipping.reads.scale
    expected = one[0] + u @ skipping.skip.W * skipping.writes.scale
    torch.testing.assert_close(written, expected)
    assert torch.equal(code.dense(), one[1].code.dense()), "no feature reads it"
    if "partial" in found:
        torch.testing.assert_close(found["partial"], one[1].aux["partial"] + (expected - one[0]))
        learns = torch.autograd.grad(
            found["partial"].sum(), [skipping.skip.W], retain_graph=True, allow_unused=True, materialize_grads=True
        )[0]
        assert bool(learns.abs().max() > 0) == skipping.activation.teaches_decoder
    weights = random(20, 5, seed=4)
    (gradient,) = torch.autograd.grad((written * weights).sum(), [skipping.skip.W])
    torch.testing.assert_close(gradient, u.T @ weights * skipping.writes.scale)


def test_an_autoencoder_has_none() -> None:
    """It reads what it should write."""
    dictionary = made(SPECS["topk"], transcoder=False, skip=True)
    assert dictionary.skip is None
    assert dictionary.spec == SPECS["topk"]


@pytest.fixture
def lm(build_tiny: Make) -> LanguageModel:
    return build_tiny("gpt2").lm


@pytest.fixture
def suite(lm: LanguageModel, all_sites: Make) -> Suite:
    sites, d_model = all_sites(lm), lm.paths.d_model
    one = {site: create(Shape(9, d_model, d_model, site.transcoder), type="topk", k=3, skip=True) for site in sites}
    for site in sites:
        if one[site].skip is not None:
            one[site].skip.W.data = 0.2 * random(d_model, d_model).float()
    return Suite(one, lm)


def test_it_is_stored(lm: LanguageModel, suite: Suite, tmp_path: Path) -> None:
    save(suite, tmp_path)
    loaded = load(tmp_path, lm)
    ours, theirs = loaded.state_dict(), suite.state_dict()
    assert sum(name.endswith("skip.W") for name in theirs) == 2
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_it_takes_part_where_the_stream_is_read(lm: LanguageModel, batch: Any, suite: Suite, ragged: Make) -> None:
    """In a dense pass, too: the sum of all reconstructions is a stream. Along connections there is none."""
    suite.double()
    trace: Trace = lm.trace(*batch)
    before = {mode: suite(trace, mode).residual() for mode in ("plain", "spliced", "dense")}
    for site in suite.sites:
        if suite[site].skip is not None:
            suite[site].skip.W.data.zero_()
    for mode, residual in before.items():
        assert (suite(trace, mode).residual() - residual)[trace.live].abs().max() > 1e-3
        assert torch.equal(suite(trace, mode).residual()[~trace.live], residual[~trace.live])
    suite.connect(ragged(suite.layout))
    with pytest.raises(ValueError, match=r"^no pruned pass: the skip of 0.mlp, 1.mlp reads the stream without"):
        suite(trace, "pruned")
