"""Gated: two paths over one pre-activation, and what each of them learns from."""

from typing import Any

import pytest
import torch

from scae.core.typing import Tensor
from scae.dictionaries import Dictionary, Shape, create

PRICE = 0.25
LIVE = torch.arange(30) % 5 != 0


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gated(*, transcoder: bool, ceiling: float = torch.inf) -> Dictionary:
    """Every parameter random."""
    dictionary = create(Shape(12, 6, 6, transcoder), type="gated", price=PRICE).double()
    for number, parameter in enumerate(dictionary.parameters()):
        parameter.data = 0.5 * random(*parameter.shape, seed=number)
    dictionary.writes.scale.fill_(2.0)
    dictionary.ceiling[::2] = ceiling
    return dictionary


def dense(dictionary: Dictionary, x: Tensor) -> dict[str, Tensor]:
    """The equations of the paper (section 3.2 and appendix J), all features of all tokens at a time."""
    encoder, decoder, activation = dictionary.encoder, dictionary.decoder, dictionary.activation
    u = x if dictionary.transcoder else x - decoder.b
    gate = u @ encoder.W.T + encoder.b
    magnitude = gate * torch.exp(activation.r_mag) + activation.b_mag
    f = ((gate > 0) * magnitude.relu()).minimum(dictionary.ceiling) * LIVE[:, None]
    opened = gate.relu() * LIVE[:, None]
    return {
        "code": f,
        "written": dictionary.writes.leave(f @ decoder.W + decoder.b),
        "penalty": PRICE * opened.sum(),
        "partial": dictionary.writes.leave(opened @ decoder.W.detach() + decoder.b.detach()),
    }


@pytest.mark.parametrize("transcoder", [True, False], ids=["transcoder", "autoencoder"])
@pytest.mark.parametrize("what", ["written", "penalty", "partial"])
def test_the_equations_and_their_gradients(transcoder: bool, what: str) -> None:
    dictionary, x = gated(transcoder=transcoder, ceiling=0.7), random(30, 6, seed=20)
    written, (code, aux) = dictionary.reconstruct(dictionary.shift(x), LIVE, aux=["penalty", "partial"])
    expected = dense(dictionary, x)
    torch.testing.assert_close(code.dense(), expected["code"])
    assert 0 < int((code.value == 0).sum()) < len(code.value), "some open gates have a magnitude of 0"
    assert aux["partial"].shape == (1, 30, 6)
    ours = {"written": written, "penalty": aux["penalty"].sum(), "partial": aux["partial"][0]}[what]
    theirs = expected[what]
    torch.testing.assert_close(ours, theirs)
    weights = random(*ours.shape, seed=30)
    found = [
        torch.autograd.grad((out * weights).sum(), list(dictionary.parameters()), materialize_grads=True)
        for out in (ours, theirs)
    ]
    for (name, _), one, other in zip(dictionary.named_parameters(), *found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")
    gradient = dict(zip(dict(dictionary.named_parameters()), found[0], strict=True))
    learns = {name for name, value in gradient.items() if value.abs().max() > 0}
    gates = {"encoder.W", "encoder.b"} | (set() if transcoder else {"decoder.b"})  # through what it subtracts
    magnitudes = {"activation.r_mag", "activation.b_mag"}
    assert learns == (gates | magnitudes | {"decoder.W", "decoder.b"} if what == "written" else gates)


def test_a_new_one_is_a_relu() -> None:
    dictionary = create(Shape(12, 6, 6, transcoder=True), type="gated", price=1.0).double()
    x = random(30, 6)
    pre = x @ dictionary.encoder.W.T + dictionary.encoder.b
    torch.testing.assert_close(dictionary.encode(x, LIVE).dense(), pre.relu() * LIVE[:, None])


def test_a_price_closes_gates_and_shrinks_no_magnitude() -> None:
    """Unlike that of a ReLU, whose reconstruction stays shorter than the target along it (section 2 of the paper)."""
    torch.manual_seed(0)
    x, live = torch.randn(400, 8), torch.ones(400, dtype=torch.bool)

    def trained(spec: dict[str, Any], weight: float) -> tuple[float, float]:
        """L0, and by what the reconstruction has to be multiplied to be as long as it should be."""
        torch.manual_seed(1)
        dictionary = create(Shape(24, 8, 8, transcoder=False), **spec)
        optimizer = torch.optim.Adam(dictionary.parameters(), lr=0.02)
        for _ in range(200):
            written, (code, aux) = dictionary.reconstruct(dictionary.shift(x), live, aux=["penalty", "partial"])
            loss = (written - x).square().sum() + weight * aux["penalty"].sum()
            loss = loss + sum((one - x).square().sum() for one in aux.get("partial", []))
            optimizer.zero_grad()
            (loss / len(x)).backward()
            optimizer.step()
            dictionary.decoder.normalise()
        made = written.detach()
        return int((code.value > 0).sum()) / len(x), float((made * x).sum() / made.square().sum())

    free, priced = (trained({"type": "gated", "price": 1.0}, weight) for weight in (0.0, 0.5))
    assert priced[0] < 0.8 * free[0]
    assert priced[1] == pytest.approx(1, abs=0.02)
    assert trained({"type": "vanilla"}, 0.5)[1] > 1.1
