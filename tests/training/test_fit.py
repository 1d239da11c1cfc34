"""Training a suite: what falls, what is kept, what a checkpoint holds, and that a resumed run is the same run."""

import csv
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fits import STEPS, Interrupted, Interrupting, between_steps, data, objective, run, state, training

from scae.artifacts.checkpoints import CHECKPOINT, read_identity
from scae.config import Anneal, AuxK, ConfigError
from scae.core.schedule import trapezoid
from scae.data import TokenWindows
from scae.lm import LanguageModel, Trace
from scae.objectives import Objective
from scae.suite import Mode, Suite
from scae.training import SuiteTraining, start, start_from_data

Make = Callable[..., Any]


@torch.no_grad()
def loss_of(suite: Suite, windows: TokenWindows, loss: Objective, mode: Mode) -> float:
    lm = suite.lm
    batch = windows.batch(range(12))
    trace = lm.trace(batch.tokens, batch.live)
    with suite.inference(), torch.no_grad():
        return float(loss(suite(trace, mode=mode), trace, lm.paths).total)


@pytest.mark.parametrize(
    ("mode", "weights", "share"),
    [("plain", {"recon": 1.0}, 0.8), ("pruned", {"recon": 1.0, "logit_kl": 1.0}, 0.8)],
)
def test_the_loss_falls(
    gpt2: LanguageModel,
    windows: TokenWindows,
    make_suite: Make,
    ragged: Make,
    tmp_path: Path,
    mode: Mode,
    weights: dict[str, float],
    share: float,
) -> None:
    suite = make_suite(gpt2, n_features=24, auxk=AuxK(k=3, dead_after=100))
    start_from_data(suite, [data(windows, 1).batch(0, rank=0, world_size=1)], centred=True, furthest=0.01)
    suite.connect(ragged(suite.layout))
    loss = objective(**weights)
    before = loss_of(suite, windows, loss, mode)
    run(suite, windows, tmp_path, loss=loss, mode=mode, config=training(steps=40, lr=0.03))
    assert loss_of(suite, windows, loss, mode) < share * before
    rows = list(csv.DictReader((tmp_path / "logs" / "metrics.csv").read_text().splitlines()))
    logged = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    assert logged[-1] < logged[0]
    assert {f"train/{name}" for name in ("loss", "dead", *weights)} <= set(rows[0])


@pytest.mark.parametrize(("width", "rate"), [(None, 0.02), (8, 0.01), (16, 0.02), (64, 0.08)])
def test_the_rate_goes_with_the_width_of_the_model(
    gpt2: LanguageModel, make_suite: Make, width: int | None, rate: float
) -> None:
    """The model's d_model is 16; a rate that was found at another width is one over it."""
    config = training(lr=0.02, lr_width=width, warmup=0.0)
    module = SuiteTraining(make_suite(gpt2), objective(), config, mode="plain", clip=None, identity={})
    found = module.configure_optimizers()
    assert [group["lr"] for group in found["optimizer"].param_groups] == [pytest.approx(rate)]


@pytest.mark.parametrize("unit_norm", [True, False])
def test_decoder_rows_stay_at_norm_one_where_asked(
    gpt2: LanguageModel, windows: TokenWindows, make_suite: Make, tmp_path: Path, unit_norm: bool
) -> None:
    suite = make_suite(gpt2)
    for site in suite.sites:
        suite[site].decoder.normalise()
    before = state(suite)
    run(suite, windows, tmp_path, loss=objective(), config=training(steps=5, unit_norm=unit_norm))
    norms = torch.cat([suite[site].decoder.W.detach().norm(dim=1) for site in suite.sites])
    assert (torch.allclose(norms, torch.ones_like(norms), atol=1e-12)) == unit_norm
    for site in suite.sites:
        assert not torch.equal(suite[site].decoder.W, before[f"dictionaries.{site.layer}_{site.kind}.decoder.W"])


def test_every_dictionary_is_clipped_on_its_own(gpt2: LanguageModel, make_suite: Make) -> None:
    suite = make_suite(gpt2)
    loud, quiet, *others = suite.sites
    generator = torch.Generator().manual_seed(0)
    for site in suite.sites:
        size = {loud: 1e6, quiet: 1e-3}.get(site, 3.0)
        for parameter in suite[site].parameters():
            parameter.grad = size * torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
    before = {name: p.grad.clone() for name, p in suite.named_parameters() if p.grad is not None}

    def clip(at: float | None) -> None:
        module = SuiteTraining(suite, objective(), training(), mode="plain", clip=at, identity={})
        optimizer = torch.optim.Adam(suite.parameters())
        module.configure_gradient_clipping(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")

    def gradient(site: Any) -> torch.Tensor:
        return torch.cat([p.grad.flatten() for p in suite[site].parameters() if p.grad is not None])

    clip(None)
    assert all(torch.equal(p.grad, before[name]) for name, p in suite.named_parameters() if p.grad is not None)
    quiet_before = gradient(quiet).clone()
    clip(0.5)
    for site in (loud, *others):
        assert float(gradient(site).norm()) == pytest.approx(0.5, rel=1e-5)
    assert torch.equal(gradient(quiet), quiet_before)


def test_clipping_is_at_work_in_a_fit(
    gpt2: LanguageModel, windows: TokenWindows, make_suite: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []
    adam_step = torch.optim.Adam.step

    def spying(self: torch.optim.Adam, closure: Any = None) -> Any:
        def look() -> Any:
            result = closure()
            for site in suite.sites:
                gradients = [p.grad.flatten() for p in suite[site].parameters() if p.grad is not None]
                norms.append(float(torch.cat(gradients).norm()))
            return result

        return adam_step(self, look)

    monkeypatch.setattr(torch.optim.Adam, "step", spying)
    suite = make_suite(gpt2)
    run(suite, windows, tmp_path, loss=objective(), config=training(steps=3), clip=1e-4)
    assert len(norms) == 3 * len(suite.sites)
    assert max(norms) <= 1e-4 * (1 + 1e-6)
    assert max(norms) > 0.99e-4


@pytest.mark.parametrize(
    ("activation", "accumulate", "at", "where"),
    [
        ("topk", 1, 11, "between"),
        ("batchtopk", 1, 11, "between"),
        ("batchtopk", 1, 11, "within"),
        ("batchtopk", 2, 14, "between"),
        ("batchtopk", 2, 15, "between"),
        ("batchtopk, annealed", 2, 15, "between"),
        ("topk, annealed", 1, 11, "between"),
    ],
    ids=str,
)
def test_an_interrupted_and_resumed_run_is_the_same_run(
    gpt2: LanguageModel,
    windows: TokenWindows,
    make_suite: Make,
    tmp_path: Path,
    activation: str,
    accumulate: int,
    at: int,
    where: str,
) -> None:
    """To the bit: parameters, thresholds, clocks of dead features, also where k falls on the way.

    (2, 15): between two micro-steps of one optimiser step; within: between the forward and the backward pass of one."""

    def fresh() -> Suite:
        suite = make_suite(gpt2, activation=activation.partition(",")[0], auxk=AuxK(k=3, dead_after=100))
        for picking in suite.picking:
            picking.anneal = Anneal(share=0.95, k_start=9) if "annealed" in activation else None
        suite[suite.sites[0]].encoder.b.data[:2] = -30  # silent, so that its clock and AuxK have something to do
        return suite

    def train(folder: Path, loss: Objective, module: type[SuiteTraining] = SuiteTraining) -> dict[str, torch.Tensor]:
        suite = fresh()
        run(suite, windows, folder, loss=loss, accumulate=accumulate, module=module)
        return state(suite)

    expected = train(tmp_path / "whole", objective(auxk=1.0))
    loss = Interrupting(objective(auxk=1.0), at if where == "within" else 10_000)
    with pytest.raises(Interrupted):
        train(tmp_path / "halves", loss, between_steps(at + (where == "within")))
    checkpoint = torch.load(tmp_path / "halves" / CHECKPOINT, weights_only=True)
    assert checkpoint["global_step"] == at // accumulate
    rest = Interrupting(objective(auxk=1.0), 10_000)
    resumed = train(tmp_path / "halves", rest)
    assert 10_000 - rest.left < (STEPS + 1) * accumulate - at, "began from the start again"
    assert resumed.keys() == expected.keys()
    assert any("threshold" in name for name in expected) == activation.startswith("batchtopk")
    assert max(int(v.max()) for name, v in expected.items() if "tokens_since_fired" in name) > 100
    different = [name for name, value in expected.items() if not torch.equal(resumed[name], value)]
    assert not different


def test_the_training_tells_what_picks_how_far_it_is(
    gpt2: LanguageModel, windows: TokenWindows, make_suite: Make, tmp_path: Path
) -> None:
    """Once an optimiser step, whatever number of micro-steps it has."""
    picked = []

    class Recording(SuiteTraining):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss = super().training_step(batch, batch_idx)
            picked.append([activation.k_now for activation in self.suite.picking])
            return loss

    suite = make_suite(gpt2, activation="batchtopk")
    for activation in suite.picking:
        activation.anneal = Anneal(share=0.75, k_start=7)
    run(suite, windows, tmp_path, loss=objective(), config=training(steps=4), accumulate=2, module=Recording)
    assert picked == [[k] * len(suite.sites) for k in (7, 7, 6, 6, 5, 5, 4, 4)]


def test_a_checkpoint_holds_the_suite_alone(
    gpt2: LanguageModel, windows: TokenWindows, make_suite: Make, tmp_path: Path
) -> None:
    suite = make_suite(gpt2)
    with pytest.raises(Interrupted):
        run(suite, windows, tmp_path, loss=Interrupting(objective(), 3))
    checkpoint = torch.load(tmp_path / CHECKPOINT, weights_only=True)  # no pickled code
    assert set(checkpoint["state_dict"]) == {f"suite.{name}" for name in suite.state_dict()}
    assert all(name.startswith("dictionaries.") for name in suite.state_dict())
    of_the_model = sum(p.numel() for p in gpt2.bridge.parameters())
    held = sum(t.numel() for t in checkpoint["state_dict"].values())
    assert held == sum(t.numel() for t in suite.state_dict().values())
    assert (tmp_path / CHECKPOINT).stat().st_size < 8 * (3 * held + of_the_model)
    assert not any(p.requires_grad for p in gpt2.bridge.parameters())
    assert read_identity(tmp_path / CHECKPOINT) == {"artifact": "pretrain-1"}


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_text("no")
    with pytest.raises(ConfigError, match=r"ckpt_path=.*x\.ckpt"):
        read_identity(tmp_path / "x.ckpt")


def test_the_language_model_is_not_trained(
    gpt2: LanguageModel, windows: TokenWindows, make_suite: Make, tmp_path: Path
) -> None:
    before = [p.clone() for p in gpt2.bridge.parameters()]
    run(make_suite(gpt2), windows, tmp_path, loss=objective(logit_kl=1.0), mode="spliced", config=training(steps=3))
    for now, then in zip(gpt2.bridge.parameters(), before, strict=True):
        assert torch.equal(now, then)
        assert now.grad is None


def test_clocks_count_text_tokens(gpt2: LanguageModel, windows: TokenWindows, make_suite: Make, tmp_path: Path) -> None:
    suite = make_suite(gpt2)
    site = suite.sites[0]
    suite[site].encoder.b.data[1] = -1e6
    run(suite, windows, tmp_path, loss=objective(), config=training(steps=7))
    module = data(windows, 7)
    live = sum(int(module.batch(step, rank=0, world_size=1).live.sum()) for step in range(7))
    assert int(suite[site].tokens_since_fired[1]) == live
    assert int(suite[site].tokens_since_fired.min()) < live


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_share_of_dead_features_is_logged_whether_or_not_they_are_revived(
    gpt2: LanguageModel, windows: TokenWindows, make_suite: Make, tmp_path: Path, weight: float
) -> None:
    suite = make_suite(gpt2, auxk=AuxK(k=3, dead_after=200))
    for site in suite.sites:
        suite[site].encoder.b.data[:3] = -1e6
    run(suite, windows, tmp_path, loss=objective(auxk=weight), config=training(lr=1e-5))
    rows = list(csv.DictReader((tmp_path / "logs" / "metrics.csv").read_text().splitlines()))
    dead = [float(row["train/dead"]) for row in rows if row["train/dead"]]
    clocks = torch.cat([suite[site].tokens_since_fired for site in suite.sites])
    assert 3 * len(suite.sites) <= int((clocks >= 200).sum()) < len(clocks)
    assert dead[-1] >= 3 * len(suite.sites) / len(clocks) > dead[0] == 0.0


# where training starts from


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("activation", ["topk", "relu", "batchtopk"])
def test_a_new_suite_starts_from_the_data(
    gpt2: LanguageModel, windows: TokenWindows, make_suite: Make, activation: str, centred: bool
) -> None:
    suite = make_suite(gpt2, activation=activation)
    for site in suite.sites:
        suite[site].ceiling.fill_(torch.inf)
        suite[site].encoder.b.data.zero_()
        suite[site].encoder.W.data.mul_(50)  # far from where it will be
    batches = [data(windows, 3).batch(step, rank=0, world_size=1) for step in range(3)]
    start_from_data(suite, batches, centred=centred, furthest=0.01)
    traces = [gpt2.trace(b.tokens, b.live) for b in batches]
    fresh = make_suite(gpt2, activation=activation)  # of the same size, so that thresholds play no part
    fresh.load_state_dict({k: v for k, v in suite.state_dict().items() if "threshold" not in k}, strict=False)
    outs = [fresh.train()(trace, "plain") for trace in traces]
    for site in suite.sites:
        target = torch.cat([trace.outputs[site.module][trace.live] for trace in traces])
        constant = suite[site].constant.detach()
        furthest = (target - constant).norm(dim=1).argmax()
        usual = target[torch.arange(len(target)) != furthest]  # a unit leaves the furthest hundredth out
        torch.testing.assert_close(constant, usual.mean(0), rtol=1e-2, atol=1e-2)
        assert bool((suite[site].decoder.b == 0).all()) == centred
        unit = suite[site].writes.enter(target)
        assert float(unit.square().mean()) == pytest.approx(1.0, rel=0.1)
        ours = torch.cat([out.outputs[site.module][out.live] for out in outs]).detach() - constant
        lengths = [float(x.norm(dim=1).median()) for x in (ours, target - constant)]
        assert lengths[0] == pytest.approx(lengths[1], rel=0.02)


def test_the_start_leaves_no_threshold_of_another_scale(
    gpt2: LanguageModel, windows: TokenWindows, make_suite: Make
) -> None:
    """The cuts seen before the encoder was scaled are those of another encoder; the first batch of the training would
    set the threshold, were it not for them."""
    suite = make_suite(gpt2, activation="batchtopk").train()
    for site in suite.sites:
        suite[site].ceiling.fill_(torch.inf)
        suite[site].encoder.b.data.zero_()
        suite[site].encoder.W.data.mul_(50)
    batches = [data(windows, 3).batch(step, rank=0, world_size=1) for step in range(3)]
    start_from_data(suite, batches, centred=True, furthest=0.01)
    fresh = make_suite(gpt2, activation="batchtopk").train()
    fresh.load_state_dict({k: v for k, v in suite.state_dict().items() if "threshold" not in k}, strict=False)
    trace = gpt2.trace(batches[0].tokens, batches[0].live)
    suite(trace, "plain")
    fresh(trace, "plain")
    for site in suite.sites:
        cut = float(fresh[site].activation.threshold)
        assert cut > 0
        assert 0.5 < float(suite[site].activation.threshold) / cut < 2.0, site


# the schedule


def test_the_trapezoid() -> None:
    factor = [trapezoid(step, steps=100, warmup=0.1, decay=0.2) for step in range(101)]
    assert factor[0] == pytest.approx(0.1)
    assert factor[4] == pytest.approx(0.5)
    assert factor[9:81] == [1.0] * 72
    assert factor[90] == pytest.approx(0.5)
    assert factor[99] == pytest.approx(0.05)
    assert factor[100] == 0.0
    assert all(math.isfinite(f) and 0 <= f <= 1 for f in factor)
    assert [trapezoid(step, steps=10, warmup=0.0, decay=0.0) for step in range(10)] == [1.0] * 10
    assert [trapezoid(step, steps=4, warmup=0.0, decay=1.0) for step in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_the_rate_of_a_fit_follows_it(
    gpt2: LanguageModel, windows: TokenWindows, make_suite: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    step = torch.optim.Adam.step

    def spying(self: torch.optim.Adam, closure: Any = None) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, closure)

    monkeypatch.setattr(torch.optim.Adam, "step", spying)
    config = training(steps=10, lr=0.02, warmup=0.2, decay=0.4)
    run(make_suite(gpt2), windows, tmp_path, loss=objective(), config=config, accumulate=2)
    assert rates == pytest.approx([0.02 * trapezoid(s, steps=10, warmup=0.2, decay=0.4) for s in range(10)])


def test_the_start_holds_the_streams_of_few_sites_at_a_time(
    gpt2: LanguageModel, windows: TokenWindows, make_suite: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One site after the other, it comes to the same numbers as all together, to the bit."""
    batches = [data(windows, 3).batch(step, rank=0, world_size=1) for step in range(3)]
    together = make_suite(gpt2, activation="batchtopk").train()
    start_from_data(together, batches, centred=True, furthest=0.01)
    seen: list[weakref.ref] = []
    held = []
    run = gpt2.trace

    def trace(*args: Any, **kwargs: Any) -> Trace:
        held.append(sum(one() is not None for one in seen))
        found = run(*args, **kwargs)
        seen.extend(weakref.ref(output) for output in found.outputs.values())
        return found

    monkeypatch.setattr(gpt2, "trace", trace)
    monkeypatch.setattr(start, "HELD", 1)
    apart = make_suite(gpt2, activation="batchtopk").train()
    start_from_data(apart, batches, centred=True, furthest=0.01)
    assert len(held) == len(batches) * len(apart.sites)
    assert max(held) <= len(batches) + len(gpt2.paths.modules), "more than one site's, and the trace that was the last"
    for name, value in together.state_dict().items():
        assert torch.equal(apart.state_dict()[name], value), name
