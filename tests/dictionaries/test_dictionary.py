"""One dictionary: which entries are kept, what counts as firing, and how dead features come back."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scae.config import Anneal, AuxK, BatchTopKSae, Bound, Mlp, Pursuit, Sae, TopKSae, VanillaSae
from scae.core.typing import Tensor
from scae.dictionaries import Activation, BatchTopK, Dictionary, ReLU, Shape, TopK, create
from scae.dictionaries.types.batchtopk import kth_largest
from scae.kernels import SparseCode


def batch_top_k(k: int) -> BatchTopK:
    return BatchTopK(k=k, threshold_rate=0.25)


ACTIVATIONS: dict[str, Callable[[], Activation]] = {
    "relu": ReLU,
    "topk": lambda: TopK(k=3),
    "batchtopk": lambda: batch_top_k(3),
}
every_activation = pytest.mark.parametrize("activation", ACTIVATIONS)


def random(*shape: int, seed: int = 0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) + shift


def all_live(pre: Tensor) -> Tensor:
    return torch.ones(len(pre), dtype=torch.bool)


def build(activation: Activation, *, transcoder: bool, n_features: int = 12, d_model: int = 6) -> Dictionary:
    """Every parameter random, none zero."""
    dictionary = Dictionary.linear(Shape(n_features, d_model, d_model, transcoder), activation).double()
    for number, parameter in enumerate(dictionary.parameters()):
        parameter.data = random(*parameter.shape, seed=number)
    return dictionary


# activations


@settings(deadline=None, max_examples=60)
@given(
    k=st.integers(1, 8), tokens=st.integers(1, 6), shift=st.sampled_from([-2.0, 0.0, 3.0]), seed=st.integers(0, 10**6)
)
def test_topk_keeps_the_k_largest_positive(k: int, tokens: int, shift: float, seed: int) -> None:
    pre = random(tokens, 8, seed=seed, shift=shift)
    code = TopK(k=k).support(pre, all_live(pre))
    for row, kept in zip(pre.tolist(), code.dense().tolist(), strict=True):
        cut = sorted(row, reverse=True)[k - 1]
        assert kept == [value if value >= cut and value > 0 else 0.0 for value in row]
    assert code.crow.diff().tolist() == [min(k, int((row > 0).sum())) for row in pre]


@every_activation
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_entries_are_positive_preactivations_of_live_tokens(activation: str, training: bool) -> None:
    pre, live = random(7, 12, shift=-0.5), torch.tensor([1, 0, 1, 1, 0, 1, 1]).bool()
    function = ACTIVATIONS[activation]().train(training)
    code = function.support(pre, live)
    assert len(code.value) > 0
    assert function(code) is code
    assert (code.value > 0).all()
    assert torch.equal(code.value, pre[code.row, code.col])
    assert (code.crow.diff()[~live] == 0).all()
    assert len(function.support(pre, torch.zeros_like(live)).value) == 0
    assert len(function.support(-pre.abs(), live).value) == 0


def test_relu_keeps_all_that_is_positive() -> None:
    pre = random(5, 9)
    assert torch.equal(ReLU().support(pre, all_live(pre)).dense(), pre.relu())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batchtopk_keeps_k_a_live_token_on_average(dtype: torch.dtype) -> None:
    """The tokens differ in how many they get, and those that are not live neither get nor use up any."""
    pre = (random(40, 16) * torch.linspace(0.2, 3, 40, dtype=torch.float64)[:, None]).to(dtype)
    live = torch.arange(40) % 4 != 0
    pre[~live] += 100
    code = batch_top_k(3).support(pre, live)
    assert len(code.value) == 3 * int(live.sum())
    assert len(set(code.crow.diff()[live].tolist())) > 2
    smallest_kept, rest = code.value.min(), pre[live][(code.dense() == 0)[live]]
    assert (rest < smallest_kept).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(deadline=None, max_examples=60)
@given(count=st.integers(1, 40), distinct=st.integers(1, 40), exponent=st.integers(-40, 35), seed=st.integers(0, 10**6))
def test_the_kth_largest_is_that_of_a_sorted_list(
    dtype: torch.dtype, count: int, distinct: int, exponent: int, seed: int
) -> None:
    """Also among equal numbers, denormal and huge ones, and those that only the last bits tell apart."""
    generator = torch.Generator().manual_seed(seed)
    values = (torch.rand(distinct, generator=generator, dtype=dtype) + 0.5) * 10.0**exponent
    values[::3] = values[0] * (1 + torch.finfo(dtype).eps)
    positive = values[torch.randint(distinct, (count,), generator=generator)]
    expected = positive.sort(descending=True).values
    found = [kth_largest(positive, k, lambda counts: counts) for k in range(1, count + 1)]
    assert torch.equal(torch.stack(found), expected)


def test_equal_preactivations_at_the_cut_are_all_kept() -> None:
    pre = torch.tensor([[3.0, 2.0, 2.0], [2.0, 1.0, 0.0]])
    assert batch_top_k(1).support(pre, all_live(pre)).dense().tolist() == [[3.0, 2.0, 2.0], [2.0, 0.0, 0.0]]


def test_batchtopk_keeps_all_positive_ones_where_there_are_few() -> None:
    pre = random(5, 9, shift=-1)
    assert torch.equal(batch_top_k(8).support(pre, all_live(pre)).dense(), pre.relu())


def test_batchtopk_learns_its_threshold_from_the_first_batch_and_then_slowly() -> None:
    function = batch_top_k(3)
    first, second = random(20, 16), random(20, 16, seed=1, shift=2)
    cut = function.support(first, all_live(first)).value.min()
    torch.testing.assert_close(function.threshold, cut, rtol=1e-12, atol=0)
    cut_of_second = function.support(second, all_live(second)).value.min()
    assert cut_of_second > cut + 0.5
    torch.testing.assert_close(function.threshold, cut + 0.25 * (cut_of_second - cut), rtol=1e-12, atol=0)
    learned = function.threshold.clone()
    function.eval().support(first, all_live(first))
    function.train().support(first, torch.zeros(20, dtype=torch.bool))  # no live token: nothing to learn from
    assert torch.equal(function.threshold, learned)
    assert "threshold" in function.state_dict()


def test_batchtopk_in_eval_does_not_look_at_other_tokens() -> None:
    function, pre = batch_top_k(3), random(20, 16)
    assert torch.equal(function.eval().support(pre, all_live(pre)).dense(), pre.relu()), (
        "before any batch the threshold is 0"
    )
    function.train().support(pre, all_live(pre))
    function.eval()
    loud = pre.clone()
    loud[1:] += 10
    alone, beside = function.support(pre[:1], all_live(pre[:1])), function.support(loud, all_live(loud))
    assert torch.equal(alone.dense()[0], beside.dense()[0])
    cut = function.threshold
    assert torch.equal(alone.dense()[0], torch.where(pre[0] > cut, pre[0], torch.zeros(())))


# encoding and decoding


@every_activation
@pytest.mark.parametrize("transcoder", [True, False], ids=["transcoder", "autoencoder"])
def test_the_equations(activation: str, transcoder: bool) -> None:
    """A transcoder never subtracts the output bias from its input (B12); an autoencoder does."""
    dictionary, x = build(ACTIVATIONS[activation](), transcoder=transcoder), random(7, 6, seed=9)
    live = torch.tensor([1, 1, 0, 1, 1, 1, 0]).bool()
    read = x if transcoder else x - dictionary.decoder.b
    pre = read @ dictionary.encoder.W.T + dictionary.encoder.b
    code = dictionary.encode(x, live)
    kept = code.dense() != 0
    assert kept[live].any(1).all()
    assert not kept[~live].any()
    torch.testing.assert_close(code.dense(), pre * kept, rtol=1e-12, atol=1e-12)
    expected = pre.relu() if activation == "relu" else None
    if expected is not None:
        torch.testing.assert_close(code.dense()[live], expected[live], rtol=1e-12, atol=1e-12)
    out = dictionary.decode(code)
    torch.testing.assert_close(out, (pre * kept) @ dictionary.decoder.W + dictionary.decoder.b, rtol=1e-12, atol=1e-12)

    weights = random(7, 6, seed=10)
    theirs = torch.autograd.grad(
        (((pre * kept) @ dictionary.decoder.W + dictionary.decoder.b) * weights).sum(), list(dictionary.parameters())
    )
    ours = torch.autograd.grad((out * weights).sum(), list(dictionary.parameters()))
    for (name, _), one, other in zip(dictionary.named_parameters(), ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def test_a_new_dictionary_has_decoder_rows_of_norm_1_and_an_encoder_of_its_own() -> None:
    dictionary = create(Shape(12, 6, 6, transcoder=False), type="vanilla")
    torch.testing.assert_close(dictionary.decoder.W.norm(dim=1), torch.ones(12))
    torch.testing.assert_close(dictionary.encoder.W, dictionary.decoder.W)
    with torch.no_grad():
        dictionary.encoder.W += 1
    torch.testing.assert_close(dictionary.decoder.W.norm(dim=1), torch.ones(12))


OFF = Anneal(share=None, k_start=9)


@pytest.mark.parametrize(
    ("section", "settings", "activation"),
    [
        (VanillaSae, {"kind": "vanilla"}, ReLU),
        (TopKSae, {"kind": "topk", "k": 5, "anneal": OFF}, TopK),
        (BatchTopKSae, {"kind": "batchtopk", "k": 5, "threshold_rate": 0.125, "anneal": OFF}, BatchTopK),
    ],
)
def test_a_section_says_what_its_dictionaries_are_made_from(
    section: type[Sae], settings: dict[str, Any], activation: type[Activation]
) -> None:
    sae: Any = section(
        features=None,
        expansion=4,
        centred=True,
        normalise="dataset",
        bound=Bound(margin=None, tokens=1),
        auxk=AuxK(k=1, dead_after=1),
        skip=False,
        encoder="linear",
        mlp=Mlp(width=1, depth=1, nonlinearity="relu", skip=True, lr_factor=1.0),
        pursuit=Pursuit(method="gradient", steps=0),
        **settings,
    )
    own = {name: value for name, value in settings.items() if name not in ("kind", "anneal")}
    assert sae.spec == {"type": settings["kind"]} | own
    dictionary = create(Shape(sae.size(6), 6, 6, transcoder=True), **sae.spec)
    assert dictionary.spec == sae.spec
    assert type(dictionary.activation) is activation
    assert (dictionary.n_features, dictionary.transcoder) == (24, True)
    assert getattr(dictionary.activation, "k", None) == settings.get("k")
    assert getattr(dictionary.activation, "threshold_rate", 0.125) == 0.125


# dead features


def test_the_clock_of_dead_features_counts_live_tokens_and_stops_at_values_above_0() -> None:
    dictionary = build(ReLU(), transcoder=True, n_features=5)
    pre = torch.tensor([[1.0, 0, -1, 0, 0], [2, 0, 0, 3, 0], [0, 0, 0, 0, 9]], dtype=torch.float64)
    support = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 1, 0], [0, 0, 0, 0, 0]]).bool()
    dictionary.count_firing(SparseCode.where(support, pre).fired(), 2)
    assert dictionary.tokens_since_fired.tolist() == [0, 2, 2, 0, 2]
    dictionary.count_firing(SparseCode.where(support & (pre == 3), pre).fired(), 50)
    assert dictionary.tokens_since_fired.tolist() == [50, 52, 52, 0, 52]
    assert "tokens_since_fired" in dictionary.state_dict()


def test_dead_code_holds_the_largest_of_the_dead_whatever_their_sign() -> None:
    dictionary = build(TopK(k=2), transcoder=True, n_features=6)
    pre, live = random(5, 6, shift=-1), torch.tensor([1, 1, 0, 1, 1]).bool()
    dictionary.tokens_since_fired += torch.tensor([0, 100, 99, 100, 101, 100])
    dead = [1, 3, 4, 5]
    code = dictionary.dead_code(pre, live, k=2, dead_after=100)
    assert code is not None
    assert code.crow.diff().tolist() == [2, 2, 0, 2, 2]
    assert (code.value < 0).any()
    for token in live.nonzero()[:, 0].tolist():
        best = sorted(dead, key=lambda feature, row=pre[token]: -row[feature])[:2]
        expected = torch.zeros(6, dtype=torch.float64)
        expected[best] = pre[token, best]
        assert torch.equal(code.dense()[token], expected)
    everyone = dictionary.dead_code(pre, live, k=50, dead_after=100)
    assert everyone is not None
    assert set(everyone.col.tolist()) == set(dead)
    assert dictionary.dead_code(pre, live, k=2, dead_after=102) is None


def test_dead_features_get_a_gradient_and_living_ones_none() -> None:
    """Regression (B3): AuxK of features that TopK has set to 0 moves neither encoder rows nor decoder rows."""
    dictionary, x = build(TopK(k=2), transcoder=False), random(9, 6, seed=5)
    dictionary.encoder.b.data[6:] -= 1
    dictionary.tokens_since_fired[6:] = 100
    shifted = dictionary.shift(x)
    code = dictionary.dead_code(dictionary.encoder.preactivations(shifted), all_live(x), k=6, dead_after=100)
    assert code is not None
    assert (code.value < 0).any()
    found = dictionary.reconstruct(shifted, all_live(x), aux=("revived",), auxk=AuxK(k=6, dead_after=100))[1]
    revived = found.aux["revived"]
    alive = (shifted @ dictionary.encoder.W[6:].T + dictionary.encoder.b[6:]).clamp_min(0)
    torch.testing.assert_close(revived, alive @ dictionary.decoder.W[6:])
    (x - revived).square().sum().backward()
    for parameter in (dictionary.encoder.W, dictionary.encoder.b, dictionary.decoder.W):
        norms = parameter.grad.reshape(12, -1).norm(dim=1)
        fires = (alive > 0).any(0)  # a decoder row that was not used has nothing to learn yet
        assert (norms[6:][fires | (parameter is not dictionary.decoder.W)] > 1e-6).all()
        assert (norms[:6] == 0).all()


def dead_after_training(*, auxk: float) -> tuple[int, int]:
    """Train where half of the features start dead; how many of that half, and of the rest, are dead in the end."""
    torch.manual_seed(0)
    tokens = 64
    truth = torch.nn.functional.normalize(torch.randn(24, 16), dim=1)
    dictionary = create(Shape(32, 16, 16, transcoder=False), type="topk", k=4)
    dictionary.encoder.b.data[16:] = -1
    optimiser = torch.optim.Adam(dictionary.parameters(), lr=3e-3)
    live = torch.ones(tokens, dtype=torch.bool)
    for _ in range(800):
        x = (torch.rand(tokens, 24) * (torch.rand(tokens, 24) < 0.15)) @ truth
        reconstruction, (code, aux) = dictionary.reconstruct(
            dictionary.shift(x), live, aux=("revived",) if auxk else (), auxk=AuxK(k=16, dead_after=500)
        )
        error = x - reconstruction
        loss = error.square().sum() / x.square().sum()
        if "revived" in aux:
            target = error.detach()
            loss = loss + auxk * (target - aux["revived"]).square().sum() / target.square().sum()
        optimiser.zero_grad()
        loss.backward()
        dictionary.decoder.project_gradient()
        optimiser.step()
        dictionary.decoder.normalise()
        dictionary.count_firing(code.fired(), tokens)
    dead_now = dictionary.tokens_since_fired >= 20 * tokens
    return int(dead_now[16:].sum()), int(dead_now[:16].sum())


def test_auxk_revives_dead_features_and_nothing_else_does() -> None:
    without, _ = dead_after_training(auxk=0.0)
    assert without >= 13
    with_it, of_the_rest = dead_after_training(auxk=1 / 32)
    assert with_it <= 5
    assert of_the_rest <= 4


# decoder rows


def test_the_projected_gradient_leaves_norms_alone_to_first_order() -> None:
    dictionary = build(ReLU(), transcoder=True)
    dictionary.decoder.project_gradient()  # without a gradient there is nothing to do
    gradient = random(12, 6, seed=8)
    dictionary.decoder.W.grad = gradient.clone()
    dictionary.decoder.project_gradient()
    projected, rows = dictionary.decoder.W.grad, dictionary.decoder.W.data
    torch.testing.assert_close((projected * rows).sum(1), torch.zeros(12, dtype=torch.float64), rtol=0, atol=1e-13)
    along = ((gradient - projected) * rows).sum(1) / rows.norm(dim=1)
    torch.testing.assert_close((gradient - projected).norm(dim=1), along.abs())  # only the radial part is gone
    changes = [((rows - step * projected).norm(dim=1) - rows.norm(dim=1)).abs().max() for step in (1e-3, 1e-4)]
    assert changes[1] < changes[0] / 90  # second order
    naive = [((rows - step * gradient).norm(dim=1) - rows.norm(dim=1)).abs().max() for step in (1e-3, 1e-4)]
    assert naive[1] > naive[0] / 11  # what would happen otherwise


def test_normalise_decoder_changes_lengths_and_no_directions() -> None:
    dictionary = build(ReLU(), transcoder=True)
    dictionary.decoder.W.data[3] = 0
    before = dictionary.decoder.W.detach().clone()
    dictionary.decoder.normalise()
    others = torch.arange(12) != 3
    torch.testing.assert_close(dictionary.decoder.W[others].norm(dim=1), torch.ones(11, dtype=torch.float64))
    cosine = torch.nn.functional.cosine_similarity(before, dictionary.decoder.W.detach())[others]
    torch.testing.assert_close(cosine, torch.ones(11, dtype=torch.float64))
    assert (dictionary.decoder.W[3] == 0).all()
