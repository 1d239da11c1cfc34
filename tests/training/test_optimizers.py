"""Every kind of optimiser: its steps against the equations, what is stored, and that a resumed fit is the same."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fits import Interrupted, Interrupting, between_steps, objective, run, state, training
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from scae.artifacts.checkpoints import CHECKPOINT
from scae.config import (
    AdamOptimizer,
    AnyOptimizer,
    AuxK,
    MuonOptimizer,
    ScheduleFreeOptimizer,
    SignumOptimizer,
)
from scae.core.schedule import trapezoid
from scae.data import TokenWindows
from scae.lm import LanguageModel
from scae.suite import Suite
from scae.training import SuiteTraining
from scae.training.optimizers import KINDS, Group, Learner, create
from scae.training.optimizers.muon import orthogonal

Make = Callable[..., Any]
CONFIGS: dict[str, AnyOptimizer] = {
    "adam": AdamOptimizer(kind="adam", lr_factor=1.0, beta1=0.8, beta2=0.99, eps=1e-6),
    "muon": MuonOptimizer(kind="muon", lr_factor=1.0, momentum=0.9, beta1=0.8, beta2=0.99, eps=1e-6),
    "signum": SignumOptimizer(kind="signum", lr_factor=1.0, momentum=0.9),
    "schedulefree": ScheduleFreeOptimizer(kind="schedulefree", lr_factor=1.0, beta1=0.8, beta2=0.99, eps=1e-6),
}
every_kind = pytest.mark.parametrize("kind", CONFIGS)
LR = 0.05


class Part(nn.Module):
    """A matrix and a vector, and a loss that they lower."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.W = nn.Parameter(torch.randn(6, 4, generator=generator, dtype=torch.float64))
        self.b = nn.Parameter(torch.randn(6, generator=generator, dtype=torch.float64))

    def loss(self, step: int) -> torch.Tensor:
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        return (torch.tanh(x @ self.W.T + self.b) - 0.3).square().sum()

    @torch.no_grad()
    def normalise(self) -> None:
        self.W.div_(self.W.norm(dim=1, keepdim=True))


def learner_of(kind: str, part: Part) -> Learner:
    return create(CONFIGS[kind], [Group(list(part.parameters()), LR, 0)])


def learn(part: Part, learner: Learner, steps: range, *, unit_norm: bool = False) -> None:
    for step in steps:
        learner.optimizer.zero_grad()
        part.loss(step).backward()
        learner.optimizer.step()
        if unit_norm:
            learner.retract(part, part.normalise)


def test_every_kind_is_tested() -> None:
    assert set(CONFIGS) == set(KINDS)


@pytest.mark.parametrize("kind", ["adam", "signum", "schedulefree"])
def test_a_step_is_that_of_the_equations(kind: str) -> None:
    part, twin = Part(), Part()
    learner = learner_of(kind, part)
    learn(part, learner, range(7))
    learner.finish()
    weights = [p.detach().clone() for p in twin.parameters()]
    means, squares = [torch.zeros_like(w) for w in weights], [torch.zeros_like(w) for w in weights]
    fast = [w.clone() for w in weights]
    for step in range(7):
        for p, x, z in zip(twin.parameters(), weights, fast, strict=True):
            p.data = 0.8 * x + 0.2 * z if kind == "schedulefree" else x.clone()
        gradients = torch.autograd.grad(twin.loss(step), list(twin.parameters()))
        for number, g in enumerate(gradients):
            m, v, x, z = means[number], squares[number], weights[number], fast[number]
            v.copy_(0.99 * v + 0.01 * g * g)
            root = (v / (1 - 0.99 ** (step + 1))).sqrt() + 1e-6
            if kind == "adam":
                m.copy_(0.8 * m + 0.2 * g)
                x -= LR * m / (1 - 0.8 ** (step + 1)) / root
            elif kind == "signum":
                m.copy_(0.9 * m + 0.1 * g)
                x -= LR * m.sign()
            else:
                z -= LR * g / root
                x += (z - x) / (step + 1)
    for p, x in zip(part.parameters(), weights, strict=True):
        torch.testing.assert_close(p.detach(), x, rtol=1e-10, atol=1e-12)


def test_muon_takes_the_matrices_and_adam_the_rest() -> None:
    """As two optimisers side by side; and a state that is loaded half-way is the same state."""
    part, twin, third = Part(), Part(), Part()
    learner, other = learner_of("muon", part), learner_of("muon", third)
    adam = torch.optim.Adam([twin.b], lr=LR, betas=(0.8, 0.99), eps=1e-6, fused=True)
    mean = torch.zeros_like(twin.W)
    for step in range(6):
        adam.zero_grad()
        twin.W.grad = None
        twin.loss(step).backward()
        adam.step()
        mean = 0.9 * mean + 0.1 * twin.W.grad
        X = 0.1 * twin.W.grad + 0.9 * mean
        X /= X.norm()
        for _ in range(5):
            square = X @ X.T
            X = (3.4445 * torch.eye(6, dtype=torch.float64) - 4.7750 * square + 2.0315 * square @ square) @ X
        twin.W.data -= 0.2 * LR * 6**0.5 * X
    learn(part, learner, range(3))
    third.load_state_dict(part.state_dict())
    other.optimizer.load_state_dict(copy.deepcopy(learner.optimizer.state_dict()))
    learn(part, learner, range(3, 6))
    learn(third, other, range(3, 6))
    for ours, loaded, theirs in zip(part.parameters(), third.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
        assert torch.equal(loaded, ours)


def test_muon_is_that_of_torch_but_for_its_bfloat16() -> None:
    part, twin = Part(), Part()
    learn(part, learner_of("muon", part), range(1))
    muon = torch.optim.Muon([twin.W], lr=LR, momentum=0.9, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    twin.loss(0).backward()
    muon.step()
    steps = [one.W.detach() - Part().W.detach() for one in (part, twin)]
    assert (steps[0] - steps[1]).norm() < 0.05 * steps[1].norm()


@given(shape=st.sampled_from([(5, 5), (4, 11), (11, 4)]), seed=st.integers(0, 1000), power=st.integers(-60, 60))
def test_a_step_of_muon_has_singular_values_near_one_and_no_unit(shape: tuple[int, int], seed: int, power: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.linalg.qr(torch.randn(n, n, generator=generator))[0] for n in shape)
    rank = min(shape)
    values = torch.logspace(0, -1.5, rank)
    matrix = (left[:, :rank] * values) @ right[:, :rank].T
    found = orthogonal(matrix)
    inside = left.T @ found @ right
    left_over = inside[:rank, :rank].diagonal()
    assert 0.65 < left_over.min() <= left_over.max() < 1.25
    inside[:rank, :rank].diagonal().zero_()
    assert inside.abs().max() < 1e-4
    assert torch.equal(orthogonal(matrix * 2.0**power), found)
    assert torch.equal(orthogonal(matrix.T), found.T) or shape[0] == shape[1]
    assert torch.equal(orthogonal(torch.zeros(shape)), torch.zeros(shape))


def test_the_last_bit_of_a_gradient_moves_the_last_digits_of_a_step_of_muon() -> None:
    """Another number of devices changes no more of a gradient than that."""
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(64, 16, generator=generator) * torch.logspace(0, -3, 16)
    other = gradient * (1 + 1e-6 * torch.randn(64, 16, generator=generator))
    step = orthogonal(gradient)
    assert (orthogonal(other) - step).norm() < 1e-5 * step.norm()


def test_a_step_of_muon_is_as_long_by_entry_as_those_of_adam_usually_are() -> None:
    part = Part()
    before = part.W.detach().clone()
    learn(part, learner_of("muon", part), range(1))
    moved = part.W.detach() - before
    assert float(moved.square().mean().sqrt()) == pytest.approx(0.2 * LR, rel=0.3)
    lengths = torch.linalg.svdvals(moved)
    assert float(lengths.min() / lengths.max()) > 0.5, "all directions alike"


@every_kind
def test_rows_of_norm_one_stay_so_in_what_is_stored(kind: str) -> None:
    part = Part()
    part.normalise()
    learner = learner_of(kind, part)
    learn(part, learner, range(8), unit_norm=True)
    learner.finish()
    torch.testing.assert_close(part.W.detach().norm(dim=1), torch.ones(6).double(), rtol=0, atol=1e-12)


def test_schedule_free_keeps_the_rows_of_both_sequences_at_norm_one() -> None:
    part = Part()
    learner = learner_of("schedulefree", part)
    learn(part, learner, range(8))
    z, y = learner.optimizer.state[part.W]["z"].clone(), part.W.detach().clone()
    x = (y - 0.2 * z) / 0.8
    learner.retract(part, part.normalise)
    x, z = x / x.norm(dim=1, keepdim=True), z / z.norm(dim=1, keepdim=True)
    torch.testing.assert_close(learner.optimizer.state[part.W]["z"], z)
    torch.testing.assert_close(part.W.detach(), 0.8 * x + 0.2 * z)
    b = learner.optimizer.state[part.b]["z"].clone()
    learner.retract(part, lambda: None)
    assert torch.equal(learner.optimizer.state[part.b]["z"], b)


@every_kind
def test_what_would_be_stored_is_looked_at_without_a_trace(kind: str) -> None:
    part, twin = Part(), Part()
    learner, other = learner_of(kind, part), learner_of(kind, twin)
    learn(part, learner, range(5))
    learn(twin, other, range(5))
    ours = [p.detach().clone() for p in part.parameters()]
    with learner.evaluated():
        shown = [p.detach().clone() for p in part.parameters()]
    assert all(map(torch.equal, ours, part.parameters()))
    assert all(map(torch.equal, ours, shown)) == (kind != "schedulefree")
    learn(part, learner, range(5, 8))
    learn(twin, other, range(5, 8))
    assert all(map(torch.equal, part.parameters(), twin.parameters()))
    other.finish()
    with learner.evaluated():
        assert all(map(torch.equal, part.parameters(), twin.parameters()))


# in a fit


@pytest.mark.parametrize(
    ("kind", "accumulate", "at"), [("muon", 1, 11), ("signum", 2, 15), ("schedulefree", 1, 11), ("schedulefree", 2, 15)]
)
def test_a_resumed_fit_is_the_same_fit_to_the_bit(
    gpt2: LanguageModel, windows: TokenWindows, make_suite: Make, tmp_path: Path, kind: str, accumulate: int, at: int
) -> None:
    """Also where it was interrupted when all was done but to store the suite."""

    def train(folder: Path, module: type[SuiteTraining] = SuiteTraining) -> dict[str, torch.Tensor]:
        suite = make_suite(gpt2, activation="batchtopk", auxk=AuxK(k=3, dead_after=100))
        config = training(optimizer=CONFIGS[kind], stagger=2)
        loss = Interrupting(objective(auxk=1.0), 10_000)
        run(suite, windows, folder, loss=loss, config=config, accumulate=accumulate, module=module)
        for site in suite.sites:
            norms = suite[site].decoder.W.detach().norm(dim=1)
            torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-12)
        return state(suite)

    expected = train(tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(tmp_path / "halves", between_steps(at))
    checkpoint = torch.load(tmp_path / "halves" / CHECKPOINT, weights_only=True)
    assert checkpoint["global_step"] == at // accumulate
    for resumed in (train(tmp_path / "halves"), train(tmp_path / "whole")):
        assert not [name for name, value in expected.items() if not torch.equal(resumed[name], value)]


def groups(suite: Suite, **changes: Any) -> list[dict[str, Any]]:
    module = SuiteTraining(suite, objective(), training(warmup=0.0, **changes), mode="plain", clip=None, identity={})
    return module.configure_optimizers()["optimizer"].param_groups


def rates(suite: Suite, **changes: Any) -> dict[str, float]:
    """The rate of each site, which all of its parameters have."""
    by_parameter = {p: group["lr"] for group in groups(suite, **changes) for p in group["params"]}
    assert by_parameter.keys() == set(suite.parameters())
    found = {str(site): {by_parameter[p] for p in suite[site].parameters()} for site in suite.sites}
    assert all(len(of_site) == 1 for of_site in found.values())
    return {site: of_site.pop() for site, of_site in found.items()}


def test_where_nothing_is_said_all_parameters_are_one_group(gpt2: LanguageModel, make_suite: Make) -> None:
    suite = make_suite(gpt2)
    (group,) = groups(suite)
    assert [id(p) for p in group["params"]] == [id(p) for p in suite.parameters()]
    plain = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=group["lr"], fused=True).param_groups[0]
    assert {key: group[key] for key in plain if key != "params"} == {k: plain[k] for k in plain if k != "params"}


def test_a_rate_goes_with_the_features_of_its_site(gpt2: LanguageModel, make_suite: Make) -> None:
    suite = make_suite(gpt2)  # of 9, 10, 11, ... features; d_model is 16
    sizes = {str(site): suite[site].n_features for site in suite.sites}
    assert len(set(sizes.values())) == len(sizes)
    found = rates(suite, lr=0.02, lr_features=36)
    assert found == pytest.approx({site: 0.02 * (36 / size) ** 0.5 for site, size in sizes.items()})
    assert found["0.attn"] == pytest.approx(0.04)
    assert rates(suite, lr=0.02, lr_features=36, lr_width=8)["0.attn"] == pytest.approx(0.02)


@every_kind
def test_sites_have_rates_of_their_own(gpt2: LanguageModel, make_suite: Make, kind: str) -> None:
    suite = make_suite(gpt2)
    optimizer = CONFIGS[kind].model_copy(update={"lr_factor": 0.5})
    found = rates(suite, lr=0.02, lr_sites={"0.mlp": 3.0}, optimizer=optimizer)
    assert found == pytest.approx({str(site): 0.03 if str(site) == "0.mlp" else 0.01 for site in suite.sites})


@every_kind
def test_sites_begin_one_after_the_other(
    gpt2: LanguageModel, windows: TokenWindows, make_suite: Make, tmp_path: Path, kind: str
) -> None:
    """Before, their weights stay to the bit, their clocks at 0, and the optimiser knows nothing of them."""
    suite = make_suite(gpt2, auxk=AuxK(k=3, dead_after=10))
    begun = {str(site): 3 * number for number, site in enumerate(suite.sites)}
    before = state(suite)
    seen: list[dict[str, tuple[bool, int]]] = []

    class Looking(SuiteTraining):
        def on_train_batch_end(self, *args: Any) -> None:
            now = self.suite.state_dict()
            weights = ("encoder.W", "encoder.b", "decoder.W", "decoder.b")
            of = {}
            for site in self.suite.sites:
                name = f"dictionaries.{site.layer}_{site.kind}"
                moved = any(not torch.equal(now[f"{name}.{part}"], before[f"{name}.{part}"]) for part in weights)
                of[str(site)] = moved, int(self.suite[site].tokens_since_fired.max())
                known = any(self.learner.optimizer.state.get(p) for p in self.suite[site].parameters())
                assert known == (len(seen) >= begun[str(site)])
            seen.append(of)

    config = training(steps=12, stagger=3, optimizer=CONFIGS[kind])
    run(suite, windows, tmp_path, loss=objective(auxk=1.0, logit_kl=1.0), mode="spliced", config=config, module=Looking)
    assert len(seen) == 12
    for step, of in enumerate(seen):
        for site, (moved, clock) in of.items():
            assert moved == (step >= begun[site]), (step, site)
            assert step >= begun[site] or clock == 0


# the schedule


def test_the_shapes_of_the_decay() -> None:
    def falling(shape: Any, to: float) -> list[float]:
        return [trapezoid(step, steps=8, warmup=0.0, decay=0.5, shape=shape, to=to) for step in range(9)]

    assert falling("linear", 0.0) == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]
    assert falling("linear", 0.2) == pytest.approx([1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    half = 2**-0.5 / 2
    assert falling("cosine", 0.0) == pytest.approx([1, 1, 1, 1, 1, 0.5 + half, 0.5, 0.5 - half, 0])
    assert falling("constant", 0.1) == pytest.approx([1, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1])


@given(
    step=st.integers(0, 99),
    start=st.integers(0, 99),
    warmup=st.floats(0, 0.5),
    decay=st.floats(0, 0.5),
    shape=st.sampled_from(["linear", "cosine", "constant"]),
    to=st.floats(0, 1),
)
def test_a_factor_is_a_share_and_nothing_before_the_start(
    step: int, start: int, warmup: float, decay: float, shape: Any, to: float
) -> None:
    of = {"steps": 100, "warmup": warmup, "decay": decay, "shape": shape, "to": to}
    found = trapezoid(step, start=start, **of)
    assert 0 <= found <= trapezoid(step, start=0, **of) <= 1
    if step < start:
        assert found == 0
    elif step - start + 1 >= warmup * 100:
        assert found == trapezoid(step, start=0, **of)
        assert found >= to * (1 - 1e-12)
