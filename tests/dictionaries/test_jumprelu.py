"""JumpReLU: what passes a threshold, how a threshold learns, and what an activation costs."""

import math

import pytest
import torch

from scae.core.typing import Tensor
from scae.dictionaries import Dictionary, Shape, create
from scae.dictionaries.types.jumprelu import JumpReLU
from scae.kernels import SparseCode

THETA, WIDTH, SLOPE, PRICE = 0.5, 0.2, 3.0, 0.25
PRE = [-0.3, 0.1, 0.41, 0.45, 0.49, 0.55, 0.59, 0.7, 2.0]


def activation(penalty: str = "l0") -> JumpReLU:
    own = JumpReLU(n_features=1, threshold=THETA, bandwidth=WIDTH, penalty=penalty, slope=SLOPE, price=PRICE).double()
    own.log_threshold.data.fill_(math.log(THETA))
    return own


def kept(function: JumpReLU) -> SparseCode:
    pre = torch.tensor(PRE, dtype=torch.float64)[:, None]
    return function.support(pre, torch.ones(len(PRE), dtype=torch.bool))


def test_what_is_above_its_threshold_is_what_it_was() -> None:
    code = activation().eval()(kept(activation().eval()))
    assert code.dense()[:, 0].tolist() == [0, 0, 0, 0, 0, 0.55, 0.59, 0.7, 2.0]


def test_in_training_the_entries_just_below_are_there_too_and_say_nothing() -> None:
    function = activation().train()
    support = kept(function)
    assert support.value.tolist() == [0.41, 0.45, 0.49, 0.55, 0.59, 0.7, 2.0]
    assert function(support).value.tolist() == [0, 0, 0, 0.55, 0.59, 0.7, 2.0]
    assert torch.equal(function(support).dense(), function.eval()(kept(function)).dense())


def gradients(function: JumpReLU, what: str) -> tuple[Tensor, float]:
    """With respect to the pre-activations that were kept, and to the threshold (not to its logarithm)."""
    support = kept(function)
    values = support.value.clone().requires_grad_()
    pre = support.with_values(values)
    out = function(pre).value if what == "activations" else function.penalty(function(pre), pre)
    weights = torch.arange(1.0, len(values) + 1).double()
    (out * weights).sum().backward()
    assert function.log_threshold.grad is not None
    of_threshold = function.log_threshold.grad.item() / function.log_threshold.exp().item()
    return torch.zeros_like(values) if values.grad is None else values.grad, of_threshold


def test_the_gradients_of_activations() -> None:
    """df/dpre is the step; df/dtheta is -theta / w at the entries nearer than w / 2: the first five, weights 1 to 5."""
    of_pre, of_threshold = gradients(activation().train(), "activations")
    assert of_pre.tolist() == [0, 0, 0, 4, 5, 6, 7]
    assert of_threshold == pytest.approx(-THETA / WIDTH * (1 + 2 + 3 + 4 + 5))


def test_the_gradients_of_the_penalty_l0() -> None:
    """The L0 has a gradient in the threshold alone: -1 / w at the entries nearer than w / 2."""
    function = activation().train()
    code = function(kept(function))
    assert function.penalty(code, kept(function)).sum().item() == PRICE * 4
    of_pre, of_threshold = gradients(function, "penalty")
    assert of_pre.abs().max() == 0
    assert of_threshold == pytest.approx(-PRICE / WIDTH * (1 + 2 + 3 + 4 + 5))


def test_the_gradients_of_the_penalty_tanh() -> None:
    """Those of tanh, through the activations: in the threshold, too, with what the rectangle says of an activation."""
    function = activation("tanh").train()
    support = kept(function)
    active = torch.where(support.value > THETA, support.value, 0.0)
    found = function.penalty(function(support), support)
    torch.testing.assert_close(found, PRICE * torch.tanh(SLOPE * active))
    of_pre, of_threshold = gradients(function, "penalty")
    weights = torch.arange(1.0, 8).double()
    slope = PRICE * SLOPE * weights / torch.cosh(SLOPE * active).square()
    torch.testing.assert_close(of_pre, slope * (active > 0))
    assert of_threshold == pytest.approx(-THETA / WIDTH * float(slope[:5].sum()))


@pytest.mark.parametrize("penalty", ["l0", "tanh"])
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_a_price_on_features_raises_thresholds(weight: float, penalty: str) -> None:
    torch.manual_seed(0)
    settings = {"threshold": 0.3, "bandwidth": 0.3, "penalty": penalty, "slope": 4.0, "price": 1.0}
    dictionary: Dictionary = create(Shape(24, 8, 8, transcoder=False), type="jumprelu", **settings)
    x, live = torch.randn(200, 8), torch.ones(200, dtype=torch.bool)
    optimizer = torch.optim.Adam(dictionary.parameters(), lr=0.02)

    def l0() -> float:
        return float((dictionary.eval().encode(x, live).value > 0).sum() / len(x))

    before = l0()
    for _ in range(60):
        written, (_, aux) = dictionary.train().reconstruct(dictionary.shift(x), live, aux=["penalty"])
        loss = (written - x).square().sum(1).mean() + weight * aux["penalty"].sum() / len(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (l0() < 0.7 * before) == (weight > 0)
