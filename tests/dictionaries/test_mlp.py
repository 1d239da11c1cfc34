"""An encoder with hidden layers: it begins as the linear one, its gradients are those of the dense formula, it is
stored and loaded, and it has no pruned pass."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from scae.connections import Connections
from scae.core.typing import Tensor
from scae.dictionaries import Dictionary, MlpEncoder, Shape, create
from scae.lm import LanguageModel, Trace
from scae.suite import Suite
from scae.suite.files import load, save

Make = Callable[..., Any]
TYPES: dict[str, dict[str, Any]] = {
    "vanilla": {"type": "vanilla"},
    "topk": {"type": "topk", "k": 3},
    "batchtopk": {"type": "batchtopk", "k": 3, "threshold_rate": 0.25},
}
MLP = {"kind": "mlp", "width": 7, "depth": 1, "nonlinearity": "relu", "skip": True}
LIVE = torch.tensor([1, 0, 1, 1, 1, 0, 1]).bool()
every_type = pytest.mark.parametrize("type_", TYPES)
each_kind = pytest.mark.parametrize("transcoder", [True, False], ids=["transcoder", "autoencoder"])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def filled(dictionary: Dictionary) -> Dictionary:
    """In float64, every parameter and unit random."""
    dictionary.double()
    for number, parameter in enumerate(dictionary.parameters()):
        parameter.data = random(*parameter.shape, seed=number)
    for number, unit in enumerate((dictionary.reads, dictionary.writes)):
        unit.centre.copy_(random(*unit.centre.shape, seed=20 + number if dictionary.transcoder else 20))
        unit.scale.fill_(1.5 + (number if dictionary.transcoder else 0))
    return dictionary


def formula(dictionary: Dictionary, u: Tensor) -> Tensor:
    """All pre-activations, layer by layer."""
    encoder: Any = dictionary.encoder
    act: Any = {"relu": F.relu, "gelu": F.gelu}[dictionary.spec["encoder"]["nonlinearity"]]
    h = u
    for layer in encoder.hidden:
        h = act(h) if not hasattr(layer, "weight") else h @ layer.weight.T + layer.bias
    pre = h @ encoder.V.T + encoder.b
    return pre + u @ encoder.W.T if encoder.skip else pre


@every_type
@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_begins_as_the_linear_encoder_bit_for_bit(type_: str, transcoder: bool, dtype: torch.dtype) -> None:
    shape = Shape(40, 16, 16, transcoder=transcoder)
    linear = filled(create(shape, **TYPES[type_])).to(dtype)
    ours = create(shape, encoder=MLP, **TYPES[type_]).to(dtype)
    missing = ours.load_state_dict(linear.state_dict(), strict=False)  # W and b of its skip are those of a linear one
    assert not missing.unexpected_keys
    assert {name.removeprefix("encoder.").partition(".")[0] for name in missing.missing_keys} == {"V", "hidden"}
    x, live = random(200, 16, seed=9).to(dtype), torch.arange(200) % 7 != 0
    one, other = linear.encode(x, live), ours.encode(x, live)
    assert len(one.value) > 100
    assert torch.equal(one.col, other.col)
    assert torch.equal(one.crow, other.crow)
    assert torch.equal(one.value, other.value)


def test_it_learns_from_the_first_step_on() -> None:
    ours = create(Shape(40, 16, 16, transcoder=True), encoder=MLP, **TYPES["topk"])
    ours.decode(ours.encode(torch.randn(50, 16), torch.ones(50, dtype=torch.bool))).square().sum().backward()
    encoder: Any = ours.encoder
    assert encoder.V.grad.abs().max() > 1e-3


@every_type
@each_kind
@pytest.mark.parametrize("skip", [True, False], ids=["skip", "alone"])
@pytest.mark.parametrize(("depth", "nonlinearity"), [(1, "relu"), (3, "gelu")])
def test_values_and_gradients_are_those_of_the_formula(
    type_: str, transcoder: bool, skip: bool, depth: int, nonlinearity: str
) -> None:
    """Also of b_dec, which an autoencoder subtracts before both paths, and of what is read."""
    settings = MLP | {"depth": depth, "nonlinearity": nonlinearity, "skip": skip}
    dictionary = filled(create(Shape(12, 6, 6, transcoder), encoder=settings, **TYPES[type_]))
    assert ("encoder.W" in dictionary.state_dict()) == skip
    x = random(7, 6, seed=50).requires_grad_()
    code = dictionary.encode(x, LIVE)
    kept = code.dense() != 0
    assert kept[LIVE].any()
    assert not kept[~LIVE].any()
    u = (x - dictionary.reads.centre) / dictionary.reads.scale
    pre = formula(dictionary, u if transcoder else u - dictionary.decoder.b)
    torch.testing.assert_close(code.dense(), pre * kept, rtol=1e-11, atol=1e-11)
    weights, values = random(7, 6, seed=60), random(*code.value.shape, seed=61)
    theirs = dictionary.writes.leave((pre * kept) @ dictionary.decoder.W + dictionary.decoder.b)
    found = [
        torch.autograd.grad((out * weights).sum() + (at * values).sum(), [*dictionary.parameters(), x])
        for out, at in ((dictionary.decode(code), code.value), (theirs, pre[code.row, code.col]))
    ]
    names = [*dict(dictionary.named_parameters()), "x"]
    for name, one, other in zip(names, *found, strict=True):
        assert other.abs().max() > 1e-6, f"{name} has no gradient: nothing is compared"
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("skip", [True, False], ids=["skip", "alone"])
def test_rescaled_it_adds_as_much_more_to_its_biases(skip: bool) -> None:
    dictionary = filled(create(Shape(12, 6, 6, True), encoder=MLP | {"skip": skip}, **TYPES["topk"]))
    u = random(7, 6, seed=9)
    before = dictionary.encoder.preactivations(u) - dictionary.encoder.b
    dictionary.encoder.rescale(torch.tensor(2.5, dtype=torch.float64))
    torch.testing.assert_close(dictionary.encoder.preactivations(u) - dictionary.encoder.b, 2.5 * before)


def test_parts_of_a_batch_are_the_batch() -> None:
    dictionary = filled(create(Shape(12, 6, 6, False), encoder=MLP, **TYPES["topk"]))
    shifted, live = dictionary.shift(random(50, 6, seed=9)), torch.ones(50, dtype=torch.bool)
    whole, parts = (dictionary.sparsify(shifted, live, chunk_mb=chunk_mb) for chunk_mb in (None, 0))
    assert torch.equal(whole.col, parts.col)
    torch.testing.assert_close(whole.value, parts.value, rtol=1e-12, atol=1e-12)


# in a suite


@pytest.fixture
def suite(lm: LanguageModel, make_suite: Make) -> Suite:
    """Random in every weight, as the others of the tests are."""
    suite = make_suite(lm)
    for site in suite.sites:
        own = suite[site]
        encoder = MlpEncoder(own.encoder, width=7, depth=1, nonlinearity="relu", skip=True, lr_factor=1.0).double()
        own.encoder, own.spec = encoder, own.spec | {"encoder": MLP}
        for number, parameter in enumerate(encoder.parameters()):
            parameter.data = 0.3 * random(*parameter.shape, seed=number)
    return suite


@pytest.mark.parametrize("mode", ["plain", "spliced", "dense"])
def test_every_pass_without_connections_has_it(suite: Suite, trace: Trace, mode: Any) -> None:
    out = suite(trace, mode=mode)
    assert all(len(code.value) for code in out.codes.values())
    learned = list(suite.parameters())
    grads = torch.autograd.grad(sum(out[trace.live].square().sum() for out in out.outputs.values()), learned)
    assert all(torch.isfinite(grad).all() and grad.abs().max() > 0 for grad in grads)


def test_all_connections_are_the_dense_pass_and_some_are_refused(suite: Suite, trace: Trace, ragged: Make) -> None:
    dense, pruned = (suite(trace, mode=mode) for mode in ("dense", "pruned"))
    assert torch.equal(dense.residual(), pruned.residual())
    for connections in (ragged(suite.layout), Connections.none(suite.layout)):
        suite.connect(connections)
        with pytest.raises(ValueError, match="an encoder with hidden layers has no direction a feature"):
            suite(trace, mode="pruned")


def test_it_is_stored_and_loaded(suite: Suite, trace: Trace, tmp_path: Path) -> None:
    save(suite, tmp_path)
    loaded = load(tmp_path, suite.lm).double()
    assert all(loaded[site].spec == suite[site].spec for site in suite.sites)
    loaded.load_state_dict(suite.state_dict())  # the same names; the file holds the numbers of a float64 suite
    ours, theirs = (one(trace, mode="plain") for one in (suite, loaded))
    assert all(torch.equal(ours.codes[site].value, theirs.codes[site].value) for site in suite.sites)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (MLP | {"wide": 3}, r"^settings of an encoder of kind mlp: .*'wide'"),
        ({"kind": "mlp", "width": 3}, r"^settings of an encoder of kind mlp: .*'depth'"),
        ({"kind": "cnn"}, r"^no kind of encoder is called 'cnn'; there are linear, mlp, pursuit$"),
    ],
)
def test_settings_that_are_none_are_refused(encoder: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create(Shape(12, 5, 5, transcoder=True), encoder=encoder, **TYPES["topk"])


def test_hidden_layers_and_what_they_add_learn_at_a_rate_of_their_own() -> None:
    settings = {"kind": "mlp", "width": 5, "depth": 2, "nonlinearity": "gelu", "skip": True, "lr_factor": 0.25}
    own = create(Shape(12, 6, 6, False), type="topk", k=2, encoder=settings)
    factors = {name: factor for (name, _), (_, factor) in zip(own.named_parameters(), own.learned(), strict=True)}
    slow = {name for name, factor in factors.items() if factor == 0.25}
    assert slow == {name for name in factors if name.startswith(("encoder.V", "encoder.hidden"))}
    assert set(factors.values()) == {0.25, 1.0}
    assert {factor for _, factor in create(Shape(12, 6, 6, False), type="topk", k=2).learned()} == {1.0}
