"""An autoencoder whose codes are searched for in every pass that it has."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scae.config import AuxK
from scae.core.typing import Tensor
from scae.dictionaries import Pursued, Shape, create
from scae.dictionaries.pursuit import search
from scae.lm import LanguageModel, Trace
from scae.suite import Suite
from scae.suite.files import load, save

Make = Callable[..., Any]
ENCODER = {"kind": "pursuit", "method": "gradient", "steps": 4}
LIVE = torch.arange(30) % 5 != 0


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def pursued() -> Pursued:
    own: Any = create(Shape(12, 6, 6, transcoder=False), type="topk", k=3, encoder=ENCODER).double()
    for number, parameter in enumerate(own.parameters()):
        parameter.data = random(*parameter.shape, seed=number)
    for unit in (own.reads, own.writes):
        unit.centre.copy_(random(6, seed=8))
        unit.scale.fill_(2.0)
    own.ceiling[::2] = 0.5
    return own


def test_its_code_is_what_the_search_finds_below_its_ceilings(pursued: Pursued) -> None:
    x = random(30, 6, seed=9)
    code = pursued.encode(x, LIVE)
    rows, wanted = pursued.decoder.W.detach(), (x - pursued.constant.detach()) / 2.0
    found = search(rows, wanted, LIVE, method="gradient", k=3, steps=4)
    torch.testing.assert_close(code.dense(), found.dense().minimum(pursued.ceiling), rtol=1e-9, atol=1e-11)
    assert (found.dense() > pursued.ceiling).any()
    parts = pursued.sparsify(pursued.shift(x), LIVE, chunk_mb=0)
    torch.testing.assert_close(parts.dense(), code.dense(), rtol=1e-9, atol=1e-11)


def test_the_decoder_alone_learns(pursued: Pursued) -> None:
    assert set(dict(pursued.named_parameters())) == {"decoder.W", "decoder.b"}
    x, weights = random(30, 6, seed=9), random(30, 6, seed=10)
    reconstruction, (code, _) = pursued.reconstruct(pursued.shift(x), LIVE)
    assert not code.value.requires_grad
    theirs = pursued.writes.leave(code.dense() @ pursued.decoder.W + pursued.decoder.b)
    torch.testing.assert_close(reconstruction, theirs)
    ours, expected = (
        torch.autograd.grad((out * weights).sum(), list(pursued.parameters())) for out in (reconstruction, theirs)
    )
    for one, other in zip(ours, expected, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other)


def test_what_the_code_leaves_is_searched_for_among_the_dead(pursued: Pursued) -> None:
    pursued.tokens_since_fired[7:] = 100
    shifted = pursued.shift(random(30, 6, seed=9))
    _, (code, aux) = pursued.reconstruct(shifted, LIVE, aux=("revived",), auxk=AuxK(k=2, dead_after=100))
    left = shifted - (code.dense() @ pursued.decoder.W).detach()
    found = search(pursued.decoder.W.detach()[7:], left, LIVE, method="gradient", k=2, steps=4)
    torch.testing.assert_close(aux["revived"], found.dense() @ pursued.decoder.W[7:] * 2.0)
    assert (aux["revived"][~LIVE] == 0).all()
    (gradient,) = torch.autograd.grad(aux["revived"].sum(), [pursued.decoder.W])
    assert (gradient[:7] == 0).all()
    assert gradient[7:].abs().max() > 0
    alive = pursued.reconstruct(shifted, LIVE, aux=("revived",), auxk=AuxK(k=2, dead_after=101))[1]
    assert alive.aux == {}


def test_it_is_refused_where_a_search_does_not_know_enough() -> None:
    with pytest.raises(ValueError, match="a transcoder does not"):
        create(Shape(12, 6, 6, transcoder=True), type="topk", k=3, encoder=ENCODER)
    for settings in ({"type": "vanilla"}, {"type": "batchtopk", "k": 3, "threshold_rate": 0.1}):
        with pytest.raises(ValueError, match="the number of features of every token, which type=topk has"):
            create(Shape(12, 6, 6, transcoder=False), encoder=ENCODER, **settings)


# in a suite


@pytest.fixture
def suite(lm: LanguageModel, all_sites: Make) -> Suite:
    torch.manual_seed(0)
    shape = Shape(9, lm.paths.d_model, lm.paths.d_model, transcoder=False)
    sites = [site for site in all_sites(lm) if not site.transcoder]
    return Suite({site: create(shape, type="topk", k=4, encoder=ENCODER) for site in sites}, lm).double()


def test_the_spliced_pass_searches_for_what_the_live_model_writes(suite: Suite, trace: Trace) -> None:
    plain, spliced = (suite(trace, mode=mode) for mode in ("plain", "spliced"))
    first, *others = suite.sites
    assert torch.equal(plain.codes[first].value, spliced.codes[first].value)
    assert not all(torch.equal(plain.outputs[site.module], spliced.outputs[site.module]) for site in others)
    live = trace.live.flatten()
    code = suite[first].encode(trace.outputs[first.module].flatten(0, 1), live)
    assert torch.equal(plain.codes[first].value, code.value)


def test_it_is_stored_loaded_and_has_no_pruned_pass(suite: Suite, trace: Trace, ragged: Make, tmp_path: Path) -> None:
    save(suite, tmp_path)
    loaded = load(tmp_path, suite.lm)
    for site in suite.sites:
        assert loaded[site].spec == suite[site].spec == {"type": "topk", "k": 4, "encoder": ENCODER}
        assert isinstance(loaded[site], Pursued)
        assert torch.equal(loaded[site].decoder.W, suite[site].decoder.W)
    suite.connect(ragged(suite.layout))
    with pytest.raises(ValueError, match="without an encoder has no direction a feature"):
        suite(trace, mode="pruned")
