"""What a dictionary divides by: one size for all tokens, each token's own, or nothing."""

from typing import Any

import pytest
import torch

from scae.config import AuxK
from scae.core.typing import Tensor
from scae.dictionaries import Dictionary, Shape, Unit, create

SPECS: dict[str, dict[str, Any]] = {
    "vanilla": {"type": "vanilla"},
    "topk": {"type": "topk", "k": 3},
    "batchtopk": {"type": "batchtopk", "k": 3, "threshold_rate": 0.25},
}
LIVE = torch.tensor([1, 0, 1, 1, 1, 0, 1]).bool()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_token(type_: str, *, transcoder: bool) -> Dictionary:
    """In float64, everything random; what is read and written has centres."""
    d_out = 8 if transcoder else 5
    own = create(Shape(12, 5, d_out, transcoder), by_token=True, **SPECS[type_]).double()
    for number, parameter in enumerate(own.parameters()):
        parameter.data = random(*parameter.shape, seed=number)
    own.reads.centre.copy_(random(5, seed=20))
    own.reads.scale.fill_(3.0)
    own.writes.centre.copy_(random(d_out, seed=21) if transcoder else own.reads.centre)
    own.writes.scale.fill_(2.0 if transcoder else 3.0)
    return own


def written(own: Dictionary, x: Tensor, kept: Tensor) -> Tensor:
    """What is written, by the equations, when these entries are kept."""
    away = x - own.reads.centre
    size = away.square().sum(1, keepdim=True).sqrt() / 5**0.5
    u = away / size if own.transcoder else away / size - own.decoder.b
    pre = u @ own.encoder.W.T + own.encoder.b
    v = (pre * kept) @ own.decoder.W + own.decoder.b
    return v * (own.writes.scale if own.transcoder else size) + own.writes.centre


def pass_of(own: Dictionary, x: Tensor) -> tuple[Tensor, Tensor]:
    """What is written, and which entries were kept."""
    out, (code, _) = own.reconstruct(own.shift(x), LIVE, size=own.size(x))
    return out, code.dense() != 0


@pytest.mark.parametrize("transcoder", [True, False], ids=["transcoder", "autoencoder"])
@pytest.mark.parametrize("type_", SPECS)
def test_by_token_the_equations_and_their_gradients(type_: str, transcoder: bool) -> None:
    """Also that of what is read, through its size: another module may have written it."""
    own, x = by_token(type_, transcoder=transcoder), random(7, 5, seed=9).requires_grad_()
    ours, kept = pass_of(own, x)
    assert kept[LIVE].any(1).all()
    theirs = written(own, x, kept)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    weights = random(*ours.shape, seed=30)
    wrt = [x, *own.parameters()]
    found = [torch.autograd.grad((out * weights).sum(), wrt) for out in (ours, theirs)]
    for one, other in zip(*found, strict=True):
        assert other.abs().max() > 1e-6
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("type_", SPECS)
def test_by_token_an_autoencoder_follows_the_size_of_each_token(type_: str) -> None:
    own, x = by_token(type_, transcoder=False), random(7, 5, seed=9)
    own.eval()  # a batch's own cut is what it is
    factor = torch.tensor([1, 2, 4, 0.5, 8, 1, 1024], dtype=torch.float64)[:, None]
    one, kept = pass_of(own, x)
    other, same = pass_of(own, own.reads.centre + (x - own.reads.centre) * factor)
    assert torch.equal(kept, same)
    torch.testing.assert_close(other - own.writes.centre, (one - own.writes.centre) * factor, rtol=1e-12, atol=1e-12)


def test_by_token_dead_features_write_in_the_size_of_the_token() -> None:
    own, x = by_token("topk", transcoder=False), random(7, 5, seed=9)
    own.tokens_since_fired[6:] = 100
    auxk = AuxK(k=6, dead_after=100)
    found = own.reconstruct(own.shift(x), LIVE, size=own.size(x), aux=["revived"], auxk=auxk)[1].aux["revived"]
    pre = (own.shift(x) @ own.encoder.W.T + own.encoder.b)[:, 6:].clamp_min(0)
    torch.testing.assert_close(found[LIVE], (pre @ own.decoder.W[6:] * own.size(x))[LIVE], rtol=1e-12, atol=1e-12)


def test_a_token_at_the_centre_has_size_one_and_a_finite_gradient() -> None:
    own = by_token("vanilla", transcoder=False)
    x = torch.cat([own.reads.centre[None], random(6, 5)]).requires_grad_()
    out, _ = pass_of(own, x)
    assert torch.equal(own.size(x)[0], torch.ones(1, dtype=torch.float64))
    torch.testing.assert_close(own.reads.enter(x)[0], torch.zeros(5, dtype=torch.float64))
    out.sum().backward()
    assert all(each.grad.isfinite().all() for each in (x, *own.parameters()))


def test_by_token_nothing_is_the_same_for_all_tokens() -> None:
    """Who does not tell the sizes is refused, not answered with those of another token."""
    own, x = by_token("topk", transcoder=False), random(7, 5, seed=9)
    code = own.encode(x, LIVE)
    for ask in (lambda: own.decode(code), lambda: own.constant, lambda: own.revive(code), lambda: own.reads.fixed):
        with pytest.raises(ValueError, match=r"sae\.normalise=token"):
            ask()
    transcoder = by_token("topk", transcoder=True)
    assert torch.equal(transcoder.constant, transcoder.decoder.b * 2.0 + transcoder.writes.centre)


def test_it_is_part_of_what_loading_needs() -> None:
    one = by_token("batchtopk", transcoder=False)
    assert one.spec == SPECS["batchtopk"] | {"by_token": True}
    other = create(one.shape, **one.spec).double()
    other.load_state_dict(one.state_dict(), strict=True)
    x = random(7, 5, seed=9)
    assert torch.equal(pass_of(one.eval(), x)[0], pass_of(other.eval(), x)[0])
    assert "by_token" not in create(one.shape, **SPECS["batchtopk"]).spec


@pytest.mark.parametrize("centred", [True, False])
def test_a_unit_that_is_measured(centred: bool) -> None:
    x = 30 + 7 * random(1000, 16)
    unit = Unit(16).double()
    mean = unit.measure(x, centred=centred, furthest=0.0, scaled=False)
    assert unit.scale == 1
    torch.testing.assert_close(unit.enter(x), x - unit.centre)
    torch.testing.assert_close(mean, x.mean(0) - unit.centre)
    assert centred or torch.equal(unit.enter(x), x)
    unit.by_token = True
    mean = unit.measure(x, centred=centred, furthest=0.0)
    u = unit.enter(x)
    torch.testing.assert_close(u.square().sum(1), torch.full((1000,), 16.0, dtype=torch.float64))
    torch.testing.assert_close(mean, u.mean(0))
    torch.testing.assert_close(unit.leave(u, unit.size(x)), x)
