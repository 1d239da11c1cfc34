"""Codes that are searched for, against what can be computed in full on small dictionaries, all in float64."""

from functools import partial
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scae.core.typing import Tensor
from scae.dictionaries import Dictionary, Shape, create, pursue
from scae.dictionaries.pursuit import METHODS, search
from scae.dictionaries.pursuit.supports import Supports
from scae.kernels import SparseCode, use

every_method = pytest.mark.parametrize("method", METHODS)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def all_live(target: Tensor) -> Tensor:
    return torch.ones(len(target), dtype=torch.bool)


def errors(code: SparseCode, rows: Tensor, target: Tensor) -> Tensor:
    return (target - code.dense() @ rows).square().sum(1)


def best(rows: Tensor, target: Tensor, k: int) -> float:
    """The smallest error of any k activations of at least 0: the best of them solves, on the features where it is above
    0, the problem without that bound."""
    found = float(target.square().sum())
    for size in range(1, k + 1):
        for chosen in map(list, combinations(range(len(rows)), size)):
            code = torch.linalg.lstsq(rows[chosen].T, target[:, None]).solution[:, 0]
            if (code >= 0).all():
                found = min(found, float((target - code @ rows[chosen]).square().sum()))
    return found


def problem(seed: int, *, tokens: int = 12, features: int = 8, width: int = 5) -> tuple[Tensor, Tensor]:
    """Rows of any norm; targets of three features and noise."""
    rows = random(features, width, seed=seed) * (0.5 + torch.rand(features, 1, generator=generator(seed)).double() * 3)
    code = torch.rand(tokens, features, generator=generator(seed + 1)).double()
    code *= torch.rand(tokens, features, generator=generator(seed + 2)) < 3 / features
    return rows, code @ rows + 0.3 * random(tokens, width, seed=seed + 3)


@every_method
@settings(deadline=None, max_examples=5, derandomize=True)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 3))
def test_no_code_is_better_than_the_best_of_all_supports(method: str, seed: int, k: int) -> None:
    """And none is worse than nothing; for one feature a token, and for rows at right angles, it is the best one."""
    rows, target = problem(seed)
    code = search(rows, target, all_live(target), method=method, k=k, steps=20)
    optimum = torch.tensor([best(rows, one, k) for one in target], dtype=torch.float64)
    found = errors(code, rows, target)
    assert (code.value > 0).all()
    assert int(code.crow.diff().max()) <= k
    assert (found >= optimum - 1e-9).all()
    assert (found <= target.square().sum(1) + 1e-12).all()
    if k == 1:
        torch.testing.assert_close(found, optimum, rtol=1e-9, atol=1e-9)
    straight = torch.linalg.qr(random(5, 5, seed=seed))[0] * torch.tensor([[0.5], [1.0], [3.0], [2.0], [0.1]]).double()
    code = search(straight, target, all_live(target), method=method, k=k, steps=20)
    optimum = torch.tensor([best(straight, one, k) for one in target], dtype=torch.float64)
    torch.testing.assert_close(errors(code, straight, target), optimum, rtol=1e-9, atol=1e-9)


def test_gradient_pursuit_is_near_the_best_of_all_supports() -> None:
    total = {"found": 0.0, "best": 0.0, "nothing": 0.0}
    for seed in range(3):
        rows, target = problem(100 * seed)
        code = search(rows, target, all_live(target), method="gradient", k=3, steps=50)
        total["found"] += float(errors(code, rows, target).sum())
        total["best"] += sum(best(rows, one, 3) for one in target)
        total["nothing"] += float(target.square().sum())
    assert total["found"] - total["best"] < 0.05 * (total["nothing"] - total["best"])


@every_method
def test_sparse_codes_of_rows_that_are_nearly_at_right_angles_are_found(method: str) -> None:
    rows = torch.nn.functional.normalize(random(40, 200, seed=1), dim=1)
    code = torch.rand(30, 40, generator=generator(2)).double().add(0.5)
    code *= torch.rand(30, 40, generator=generator(3)) < 0.08
    k = (code > 0).sum(1)
    found = search(rows, code @ rows, all_live(code), method=method, k=k, steps=200)
    torch.testing.assert_close(found.dense(), code, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["gradient", "matching"])
def test_many_steps_are_the_best_activations_of_the_chosen_features(method: str) -> None:
    """The conditions of Karush, Kuhn and Tucker: the error has no part along a chosen feature."""
    rows, target = problem(7, tokens=40, features=20, width=12)
    code = search(rows, target, all_live(target), method=method, k=4, steps=400)
    residual = target - code.dense() @ rows
    along = (residual @ rows.T / rows.norm(dim=1))[code.row, code.col]
    assert len(code.value) > 80
    torch.testing.assert_close(along, torch.zeros_like(along), rtol=0, atol=1e-5)


# step by step


def test_matching_pursuit_step_by_step() -> None:
    rows, target = problem(3, tokens=30, features=9, width=4)
    directions, k, more = rows / rows.norm(dim=1, keepdim=True), 3, 4
    expected = torch.zeros(30, 9, dtype=torch.float64)
    for code, residual in zip(expected, target.clone(), strict=True):
        for _ in range(k):
            gains = [float(residual @ row) for row in directions]
            gain = max(gains)
            if gain > 0:
                code[gains.index(gain)] += gain
                residual -= gain * directions[gains.index(gain)]
        for _ in range(more):
            along = [float(residual @ row) for row in directions]
            steps = [max(a, -float(f)) if f > 0 else 0.0 for a, f in zip(along, code, strict=True)]
            taken = [step * (2 * a - step) for step, a in zip(steps, along, strict=True)]
            j = taken.index(max(taken))
            code[j] += steps[j]
            residual -= steps[j] * directions[j]
    found = search(rows, target, all_live(target), method="matching", k=k, steps=more)
    torch.testing.assert_close(found.dense() * rows.norm(dim=1), expected, rtol=1e-10, atol=1e-12)


def test_gradient_pursuit_step_by_step() -> None:
    rows, target = problem(3, tokens=30, features=9, width=4)
    directions, k, more = rows / rows.norm(dim=1, keepdim=True), 3, 4
    expected, cut = torch.zeros(30, 9, dtype=torch.float64), 0
    for code, one in zip(expected, target, strict=True):
        chosen: list[int] = []
        for number in range(k + more):
            correlation = directions @ (one - code @ directions)
            others = [j for j in range(9) if j not in chosen]
            j = max(others, key=lambda j: float(correlation[j]))
            if number < k and len(chosen) < k and correlation[j] > 0:
                chosen.append(j)
            g = torch.zeros(9, dtype=torch.float64)
            for i in chosen:
                g[i] = correlation[i] if code[i] > 0 or correlation[i] > 0 else 0
            if g.abs().max() == 0:
                continue
            step = float(g @ g / (g @ directions).square().sum())
            limits = {i: float(-code[i] / g[i]) for i in chosen if g[i] < 0}
            step = min([step, *limits.values()])
            code += step * g
            for i in [i for i in limits if limits[i] == step]:
                code[i], cut = 0, cut + 1
                chosen.remove(i)
    assert cut > 0, "no activation comes to 0: that is not tested"
    found = search(rows, target, all_live(target), method="gradient", k=k, steps=more)
    torch.testing.assert_close(found.dense() * rows.norm(dim=1), expected, rtol=1e-9, atol=1e-10)


@every_method
@settings(deadline=None, max_examples=3, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_the_error_never_grows_from_step_to_step(method: str, seed: int) -> None:
    rows, target = problem(seed, tokens=20, features=15, width=6)
    before = target.square().sum(1)
    for steps in range(12):
        now = errors(search(rows, target, all_live(target), method=method, k=4, steps=steps), rows, target)
        assert (now <= before + 1e-12).all()
        before = now


def test_the_error_falls_with_each_feature_of_gradient_pursuit() -> None:
    rows, target = problem(5, tokens=40, features=30, width=10)
    before = target.square().sum(1)
    for k in range(1, 7):
        now = errors(search(rows, target, all_live(target), method="gradient", k=k, steps=0), rows, target)
        assert (now < before).all()
        before = now


# what a search is asked for


@every_method
def test_each_token_has_its_own_number_and_what_is_not_live_has_none(method: str) -> None:
    rows, target = problem(11, tokens=40, features=30, width=10)
    k = torch.arange(40) % 6
    live = torch.arange(40) % 7 != 0
    found = search(rows, target, live, method=method, k=k, steps=10)
    counts = found.crow.diff()
    assert (counts[~live] == 0).all()
    assert (counts <= k).all()
    assert (counts[live] == k[live]).sum() > 25
    one_by_one = [
        search(rows, target[n : n + 1], live[n : n + 1], method=method, k=int(k[n]), steps=10) for n in range(40)
    ]
    torch.testing.assert_close(found.dense(), SparseCode.joined(one_by_one).dense(), rtol=1e-9, atol=1e-11)
    in_order = [found.col[found.row == n].tolist() for n in range(40)]
    assert in_order == [sorted(set(features)) for features in in_order]


@every_method
def test_parts_of_a_batch_are_the_batch_on_every_backend(method: str) -> None:
    rows, target = problem(12, tokens=50, features=30, width=10)
    found = partial(search, rows, target, all_live(target), method=method, k=5, steps=6)
    whole, parts = found(chunk_mb=None), found(chunk_mb=0)
    with use("reference"):
        plain = found(chunk_mb=None)
    for other in (parts, plain):
        assert torch.equal(whole.col, other.col)
        torch.testing.assert_close(whole.value, other.value, rtol=1e-9, atol=1e-11)


@every_method
def test_where_nothing_helps_nothing_is_active(method: str) -> None:
    rows = random(6, 4, seed=1).abs()
    rows[2] = 0
    find = partial(search, rows, method=method, steps=5)
    assert len(find(-torch.ones(3, 4).double(), torch.ones(3).bool(), k=2).value) == 0
    assert len(find(torch.ones(3, 4).double(), torch.ones(3).bool(), k=0).value) == 0
    assert len(find(torch.ones(3, 4).double(), torch.zeros(3).bool(), k=2).value) == 0
    everything = find(torch.ones(3, 4).double(), torch.ones(3).bool(), k=50)
    assert torch.isfinite(everything.value).all()
    assert 2 not in everything.col


def test_nothing_of_size_features_x_features_is_formed() -> None:
    """Three tokens of a hundred features: whatever is held is of tokens, slots or width, or the rows themselves."""
    sizes: set[int] = set()

    class Watched(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            sizes.update(one.numel() for one in (out if isinstance(out, tuple) else (out,)) if isinstance(one, Tensor))
            return out

    rows, target = random(100, 5, seed=1), random(3, 5, seed=2)
    with Watched():
        for method in METHODS:
            search(rows, target, all_live(target), method=method, k=2, steps=3)
    assert max(sizes) == rows.numel()


def test_a_slot_that_came_free_is_taken_again() -> None:
    found = Supports(random(2, 3, seed=1), torch.eye(3).double(), torch.tensor([2, 1]))
    yes = torch.tensor([True, True])
    found.add(torch.tensor([1, 2]), yes)
    found.become(torch.tensor([[1.0, 0], [1.0, 0]]).double())
    found.add(torch.tensor([2, 0]), yes)
    assert found.used.tolist() == [[True, True], [True, False]], "the second token may have one"
    found.become(torch.tensor([[0.0, 2.0], [0.0, 0.0]]).double())
    assert found.used.tolist() == [[False, True], [False, False]]
    found.add(torch.tensor([0, 1]), torch.tensor([True, False]))
    assert found.used.tolist() == [[True, True], [False, False]]
    assert found.at.tolist() == [[0, 2], [0, 0]]
    torch.testing.assert_close(found.residual, random(2, 3, seed=1) - torch.tensor([[0.0, 0, 2], [0, 0, 0]]).double())


# dictionaries


@pytest.mark.parametrize("transcoder", [True, False], ids=["transcoder", "autoencoder"])
@every_method
def test_a_dictionary_is_searched_in_its_own_unit(method: str, transcoder: bool) -> None:
    dictionary = create(Shape(20, 6, 6, transcoder), type="topk", k=3).double()
    dictionary.decoder.W.data = random(20, 6, seed=1)
    dictionary.decoder.b.data = random(6, seed=2)
    dictionary.writes.centre.copy_(random(6, seed=3))
    dictionary.writes.scale.fill_(2.5)
    target = random(30, 6, seed=4)
    find = partial(pursue, dictionary, method=method, k=3, steps=8)
    code = find(target, all_live(target))
    rows, wanted = 2.5 * dictionary.decoder.W.detach(), target - dictionary.decode(code.with_values(0 * code.value))
    expected = search(rows, wanted.detach(), all_live(target), method=method, k=3, steps=8)
    torch.testing.assert_close(code.dense(), expected.dense(), rtol=1e-9, atol=1e-11)
    assert not code.value.requires_grad
    nothing = (target - dictionary.constant).square().sum()
    assert (target - dictionary.decode(code)).square().sum() < 0.5 * nothing
    for unit in (dictionary.reads, dictionary.writes):
        unit.centre *= 4
        unit.scale *= 4
    assert torch.equal(find(4 * target, all_live(target)).value, code.value), "whatever the size of the stream (I7)"


def trained() -> tuple[Dictionary, Tensor]:
    """A small autoencoder that has learned what its data are made of, and data that it has not seen."""
    torch.manual_seed(0)
    truth = torch.nn.functional.normalize(torch.randn(24, 16), dim=1)
    dictionary = create(Shape(32, 16, 16, transcoder=False), type="topk", k=4)
    optimiser = torch.optim.Adam(dictionary.parameters(), lr=2e-2)

    def draw(tokens: int) -> Tensor:
        return (torch.rand(tokens, 24) * (torch.rand(tokens, 24) < 0.15)) @ truth

    for _ in range(150):
        x = draw(128)
        loss = (x - dictionary.decode(dictionary.encode(x, all_live(x)))).square().sum() / x.square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        dictionary.decoder.normalise()
    return dictionary.double(), draw(1000).double()


def test_a_search_is_never_worse_than_the_encoder_that_was_trained() -> None:
    """At the encoder's own number of features at each token."""
    dictionary, x = trained()
    code = dictionary.encode(x, all_live(x))
    k = code.crow.diff()

    def unexplained(code: SparseCode) -> float:
        return float((x - dictionary.decode(code).detach()).square().sum() / (x - x.mean(0)).square().sum())

    theirs = unexplained(code)
    assert theirs < 0.3, "the encoder has learned nothing: there is nothing to compare with"
    ours = {method: pursue(dictionary, x, all_live(x), method=method, k=k, steps=30) for method in METHODS}
    for method, found in ours.items():
        assert (found.crow.diff() <= k).all()
        assert unexplained(found) < theirs, method
    assert unexplained(ours["gradient"]) < 0.7 * theirs
