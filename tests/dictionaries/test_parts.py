"""The parts of a dictionary: widths that differ, an activation that learns, a penalty, and what `create` refuses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from scae.config import AuxK
from scae.core.typing import Bool, Float, Tensor
from scae.dictionaries import Activation, Dictionary, Shape, create
from scae.kernels import SparseCode
from scae.lm import Module

SPECS: dict[str, dict[str, Any]] = {
    "vanilla": {"type": "vanilla"},
    "topk": {"type": "topk", "k": 3},
    "batchtopk": {"type": "batchtopk", "k": 3, "threshold_rate": 0.25},
    "matryoshka": {"type": "matryoshka", "k": 3, "threshold_rate": 0.25, "groups": [0.25, 0.25, 0.5]},
    "groupmax": {"type": "groupmax", "k": 3},
}
every_type = pytest.mark.parametrize("type_", SPECS)
LIVE = torch.tensor([1, 0, 1, 1, 1, 0, 1]).bool()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def filled(dictionary: Dictionary) -> Dictionary:
    """In float64, encoder, decoder and units random."""
    dictionary.double()
    for part in (dictionary.encoder, dictionary.decoder):
        for number, parameter in enumerate(part.parameters()):
            parameter.data = random(*parameter.shape, seed=parameter.shape[-1] + number)
    for number, unit in enumerate((dictionary.reads, dictionary.writes)):
        unit.centre.copy_(random(*unit.centre.shape, seed=20 + number))
        unit.scale.fill_(1.5 + number)
    return dictionary


def same_gradients(dictionary: Dictionary, ours: Tensor, theirs: Tensor) -> None:
    """With respect to every parameter, of a random functional."""
    weights = random(*ours.shape, seed=30)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    found = [torch.autograd.grad((out * weights).sum(), list(dictionary.parameters())) for out in (ours, theirs)]
    for (name, _), one, other in zip(dictionary.named_parameters(), *found, strict=True):
        assert other.abs().max() > 1e-6, f"{name} has no gradient: nothing is compared"
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


# what is read and what is written have widths of their own


@every_type
def test_what_is_read_and_what_is_written_differ_in_width(type_: str) -> None:
    dictionary = filled(create(Shape(12, 5, 8, transcoder=True), **SPECS[type_]))
    assert dictionary.encoder.W.shape == (12, 5)
    assert dictionary.decoder.W.shape == (12, 8)
    assert (dictionary.encoder.b.shape, dictionary.decoder.b.shape) == ((12,), (8,))
    assert (dictionary.reads.centre.shape, dictionary.writes.centre.shape) == ((5,), (8,))
    x = random(7, 5, seed=9)
    code = dictionary.encode(x, LIVE)
    assert len(code.value) > 0
    pre = (x - dictionary.reads.centre) / dictionary.reads.scale @ dictionary.encoder.W.T + dictionary.encoder.b
    written = (pre * (code.dense() != 0)) @ dictionary.decoder.W + dictionary.decoder.b
    ours = dictionary.decode(code)
    assert ours.shape == (7, 8)
    same_gradients(dictionary, ours, written * dictionary.writes.scale + dictionary.writes.centre)
    torch.testing.assert_close(ours[~LIVE], dictionary.constant.expand(2, 8))


@every_type
def test_dead_features_write_in_the_width_of_what_is_written(type_: str) -> None:
    dictionary = filled(create(Shape(12, 5, 8, transcoder=True), **SPECS[type_]))
    dictionary.tokens_since_fired[6:] = 100
    shifted = dictionary.shift(random(7, 5, seed=9))
    found = dictionary.reconstruct(shifted, LIVE, aux=["revived"], auxk=AuxK(k=6, dead_after=100))[1]
    revived = found.aux["revived"]
    assert revived.shape == (7, 8)
    assert (revived[~LIVE] == 0).all()
    pre = (shifted @ dictionary.encoder.W.T + dictionary.encoder.b)[:, 6:].clamp_min(0)
    torch.testing.assert_close(revived[LIVE], (pre @ dictionary.decoder.W[6:] * dictionary.writes.scale)[LIVE])


def test_a_new_one_has_rows_of_norm_1_at_both_ends() -> None:
    dictionary = create(Shape(12, 5, 8, transcoder=True), type="topk", k=3)
    torch.testing.assert_close(dictionary.encoder.W.norm(dim=1), torch.ones(12))
    torch.testing.assert_close(dictionary.decoder.W.norm(dim=1), torch.ones(12))
    assert dictionary.decoder.rows(Module(0, "mlp")) is dictionary.decoder.W


def test_its_state_fits_into_what_its_spec_and_shape_make() -> None:
    one = filled(create(Shape(12, 5, 8, transcoder=True), **SPECS["batchtopk"]))
    one.encode(random(7, 5), LIVE)
    other = create(one.shape, **one.spec).double()
    other.load_state_dict(one.state_dict(), strict=True)
    assert one.activation.threshold > 0
    x = random(7, 5, seed=9)
    ours, theirs = (each.eval().decode(each.encode(x, LIVE)) for each in (one, other))
    assert torch.equal(ours, theirs)


# an activation that learns


class Learned(Activation):
    """What exceeds a threshold of its feature, learned through a window around it (Rajamanoharan et al. 2024).

    Entries of the window below the threshold are 0 and carry its gradient alone: d f / d threshold = -threshold / width
    inside the window.
    """

    def __init__(self, n_features: int, *, width: float) -> None:
        super().__init__()
        self.width = width
        self.threshold = nn.Parameter(torch.linspace(0.2, 0.6, n_features))

    @torch.no_grad()
    def support(self, pre: Float[Tensor, "token feature"], live: Bool[Tensor, " token"]) -> SparseCode:
        return SparseCode.where((pre > self.threshold - self.width / 2) & live[:, None], pre)

    def forward(self, code: SparseCode) -> SparseCode:
        pre, threshold = code.value, self.threshold[code.col]
        inside = (pre - threshold).abs() < self.width / 2
        slope = -threshold.detach() / self.width * inside
        learns = slope * (threshold - threshold.detach())  # 0, with a gradient
        return code.with_values(torch.where(pre > threshold, pre, torch.zeros_like(pre)) + learns)

    def penalty(self, code: SparseCode, pre: SparseCode) -> Float[Tensor, " nnz"]:
        return 2 * code.value


CEILING = 0.5  # inside the windows of some features, below the thresholds of others


@pytest.fixture
def learning() -> Dictionary:
    """Every third feature bounded."""
    dictionary = filled(Dictionary.linear(Shape(40, 5, 8, transcoder=True), Learned(40, width=0.3)))
    dictionary.ceiling[::3] = CEILING
    return dictionary


def test_a_parameter_of_an_activation_gets_its_gradient(learning: Dictionary) -> None:
    """Also from entries that only carry one; not from those that the ceiling cuts, which comes after it."""
    activation: Any = learning.activation
    shifted = learning.shift(random(40, 5, seed=9))
    live = torch.arange(40) % 5 != 0
    code = learning.sparsify(shifted, live)
    pre = (shifted @ learning.encoder.W.T + learning.encoder.b).detach()
    threshold = activation.threshold.detach()
    active = (pre > threshold) & live[:, None]
    cut = active & (pre > learning.ceiling)
    inside = ((pre - threshold).abs() < 0.15) & live[:, None]
    carriers = inside & ~active
    assert int(carriers.sum()) > 20
    assert int(cut.sum()) > 20
    assert len(code.value) == int((active | carriers).sum()), "the support holds the entries that only carry a gradient"
    dense = code.dense()
    torch.testing.assert_close(dense, (pre * active).minimum(learning.ceiling), rtol=1e-12, atol=1e-12)
    assert (dense[carriers] == 0).all()

    weights = random(40, 8, seed=10)
    (learning.decode(code) * weights).sum().backward()
    at = weights @ learning.decoder.W.detach().T * learning.writes.scale  # the gradient of each activation
    expected = (at * inside * ~cut * (-threshold / 0.3)).sum(0)
    assert (expected[carriers.any(0)] != 0).all()
    torch.testing.assert_close(activation.threshold.grad, expected, rtol=1e-10, atol=1e-12)
    passes = at * (active & ~cut)
    torch.testing.assert_close(learning.encoder.b.grad, passes.sum(0), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(learning.encoder.W.grad, passes.T @ shifted, rtol=1e-10, atol=1e-12)


def test_an_entry_that_the_ceiling_cuts_teaches_the_threshold_nothing(learning: Dictionary) -> None:
    """Under a ceiling of 0 all that is active is cut, also inside the window; entries that are 0 teach as before."""
    activation: Any = learning.activation
    x = random(40, 5, seed=9)
    live = torch.ones(40, dtype=torch.bool)
    found = []
    for ceiling in (1.0, 0.0):
        learning.ceiling.fill_(ceiling)
        learning.zero_grad()
        learning.encode(x, live).value.sum().backward()
        found.append(activation.threshold.grad.clone())
    pre = (learning.shift(x) @ learning.encoder.W.T + learning.encoder.b).detach()
    threshold = activation.threshold.detach()
    below, above = (pre - threshold < 0), (pre - threshold > 0)
    for grad, teaches in zip(found, (below | above, below), strict=True):
        inside = ((pre - threshold).abs() < 0.15) & teaches
        torch.testing.assert_close(grad, -threshold / 0.3 * inside.sum(0), rtol=1e-10, atol=1e-12)
    assert (found[0] != found[1]).any()


def test_an_entry_that_only_carries_a_gradient_does_not_fire(learning: Dictionary) -> None:
    learning.encoder.W.data.zero_()
    learning.encoder.b.data = learning.activation.threshold.detach() + torch.tensor([0.05, -0.05]).double().repeat(20)
    code = learning.encode(random(6, 5), torch.ones(6, dtype=torch.bool))
    assert len(code.value) == 6 * 40
    assert code.fired().tolist() == [True, False] * 20
    learning.count_firing(code.fired(), 6)
    assert learning.tokens_since_fired.tolist() == [0, 6] * 20


def test_it_takes_part_in_parts_in_a_penalty_and_in_a_state(learning: Dictionary) -> None:
    shifted, live = learning.shift(random(40, 5, seed=9)), torch.ones(40, dtype=torch.bool)
    whole = learning.reconstruct(shifted, live, aux=["penalty"])[1]
    parts = learning.reconstruct(shifted, live, aux=["penalty"], chunk_mb=0)[1]  # a token at a time
    assert torch.equal(whole.code.col, parts.code.col)
    torch.testing.assert_close(whole.code.value, parts.code.value, rtol=1e-12, atol=1e-12)
    assert torch.equal(whole.aux["penalty"], 2 * whole.code.value), "of the activations as they are in the end: bounded"
    assert whole.code.value.max() > CEILING
    assert "activation.threshold" in learning.state_dict()
    assert "activation.threshold" in dict(learning.named_parameters())


# what is paid for


def test_the_penalty_of_vanilla_is_its_l1_norm_entry_by_entry() -> None:
    dictionary = filled(create(Shape(12, 5, 5, transcoder=False), type="vanilla"))
    dictionary.ceiling[::2] = 0.5
    shifted = dictionary.shift(random(7, 5, seed=9))
    code, aux = dictionary.reconstruct(shifted, LIVE, aux=["penalty"])[1]
    assert set(aux) == {"penalty"}
    assert aux["penalty"].shape == code.value.shape
    pre = (
        shifted @ dictionary.encoder.W.T + dictionary.encoder.b - dictionary.decoder.b @ dictionary.encoder.W.detach().T
    )
    pre = pre + (dictionary.decoder.b @ dictionary.encoder.W.T).detach()  # the value of `shifted` has it already
    l1 = pre.relu().minimum(dictionary.ceiling).abs() * LIVE[:, None]
    torch.testing.assert_close(aux["penalty"], l1[code.row, code.col], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(aux["penalty"].sum(), code.dense().abs().sum())
    learned = [dictionary.encoder.W, dictionary.encoder.b, dictionary.decoder.b]
    ours, theirs = (torch.autograd.grad(total.sum(), learned) for total in (aux["penalty"], l1))
    for one, other in zip(ours, theirs, strict=True):
        assert other.abs().max() > 1e-6
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("type_", ["topk", "batchtopk", "matryoshka", "groupmax"])
def test_types_that_pick_their_number_have_no_penalty(type_: str) -> None:
    dictionary = filled(create(Shape(12, 5, 5, transcoder=True), **SPECS[type_]))
    assert dictionary.reconstruct(random(7, 5), LIVE, aux=["penalty"])[1].aux == {}


@every_type
def test_nothing_auxiliary_is_computed_that_nobody_asks_for(type_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dictionary = filled(create(Shape(12, 5, 5, transcoder=True), **SPECS[type_]))
    dictionary.tokens_since_fired.fill_(100)
    auxk = AuxK(k=6, dead_after=100)
    assert "revived" in dictionary.reconstruct(random(7, 5), LIVE, aux=["revived"], auxk=auxk)[1].aux

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("nobody has asked")

    for owner, name in ((Dictionary, "dead_code"), (Dictionary, "revive"), (type(dictionary.activation), "penalty")):
        monkeypatch.setattr(owner, name, never)
    assert dictionary.reconstruct(random(7, 5), LIVE, auxk=auxk)[1].aux == {}
    with pytest.raises(AssertionError, match="asked"):
        dictionary.reconstruct(random(7, 5), LIVE, aux=["revived"], auxk=auxk)


# what `create` refuses


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "lista"}, r"^no type of dictionary is called 'lista'; there are vanilla, topk, batchtopk, .*gated$"),
        ({"type": "topk"}, r"^settings of a dictionary of type topk: .*'k'"),
        ({"type": "topk", "k": 3, "l1": 0.1}, r"^settings of a dictionary of type topk: .*'l1'"),
        ({"type": "vanilla", "k": 3}, r"^settings of a dictionary of type vanilla: .*'k'"),
        ({"type": "batchtopk", "k": 3}, r"^settings of a dictionary of type batchtopk: .*'threshold_rate'"),
    ],
    ids=["no such type", "missing", "unknown", "another's", "one of two missing"],
)
def test_types_and_settings_that_are_none_are_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create(Shape(12, 5, 5, transcoder=True), **spec)


@every_type
def test_a_dictionary_knows_what_it_was_made_from(type_: str) -> None:
    shape = Shape(12, 5, 8, transcoder=True)
    make: Callable[..., Dictionary] = create
    dictionary = make(shape, **SPECS[type_])
    assert dictionary.spec == SPECS[type_]
    assert dictionary.shape == shape
    assert (dictionary.n_features, dictionary.transcoder) == (12, True)


def test_an_autoencoder_writes_as_much_as_it_reads() -> None:
    with pytest.raises(ValueError, match="an autoencoder writes what it reads, got d_in=5 and d_out=6"):
        Shape(12, 5, 6, transcoder=False)
