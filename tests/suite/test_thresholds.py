"""A threshold belongs to the pass that it was learned in: known, stored, begun anew, learned where it is foreign."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scae.config import Anneal, AuxK, BatchTopKSae, Bound, Mlp, Pursuit
from scae.dictionaries.types import batchtopk
from scae.lm import LanguageModel, Trace
from scae.suite import Mode, Suite, thresholds
from scae.suite.files import load, save

Make = Callable[..., Any]
K = 4  # of `make_suite`
OTHERS: tuple[Mode, ...] = ("spliced", "dense", "pruned")


@pytest.fixture
def suite(lm: LanguageModel, make_suite: Make, ragged: Make) -> Suite:
    """Its thresholds are those of the plain pass."""
    suite = make_suite(lm, activation="batchtopk", n_features=24)
    suite.connect(ragged(suite.layout))
    thresholds.learn(suite, traces(lm), "plain")
    return suite


def traces(lm: LanguageModel) -> list[Trace]:
    """Batches of different sizes."""
    tokens = torch.randint(40, (64, 12), generator=torch.Generator().manual_seed(3))
    live = torch.ones_like(tokens, dtype=torch.bool)
    live[:, 0] = False
    live[::3, -4:] = False
    return [lm.trace(tokens[part], live[part]) for part in (slice(0, 30), slice(30, 54), slice(54, 64))]


@torch.no_grad()
def l0(suite: Suite, mode: Mode) -> torch.Tensor:
    """By site, activations a token."""
    suite.eval()
    outs = [suite(trace, mode=mode) for trace in traces(suite.lm)]
    n_live = sum(int(out.live.sum()) for out in outs)
    return torch.tensor([sum(len(out.codes[site].value) for out in outs) / n_live for site in suite.sites])


def test_learned_in_its_own_pass_a_suite_runs_at_k(suite: Suite) -> None:
    assert l0(suite, "plain") == pytest.approx(K, rel=0.05)
    for mode in OTHERS:
        foreign = l0(suite, mode)
        assert (foreign / K - 1).abs().max() > 0.15, f"{mode}: nothing to learn"
        thresholds.learn(suite, traces(suite.lm), mode)
        assert l0(suite, mode) == pytest.approx(K, rel=0.05)


def test_nothing_but_thresholds_changes_and_no_other_process_is_waited_for(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waits(value: torch.Tensor) -> torch.Tensor:
        raise AssertionError("waits for the other processes")

    monkeypatch.setattr(batchtopk, "summed", waits)
    suite.auxk = AuxK(k=3, dead_after=1)
    before = {name: value.clone() for name, value in suite.state_dict().items()}
    thresholds.learn(suite, traces(suite.lm), "dense")
    changed = [name for name, value in suite.state_dict().items() if not torch.equal(value, before[name])]
    assert changed
    assert all(name.endswith("threshold") for name in changed)
    assert suite.threshold_pass == "dense"
    learned = {name: value.clone() for name, value in suite.state_dict().items()}
    thresholds.learn(suite, [], "dense")  # they belong there already
    assert all(torch.equal(value, learned[name]) for name, value in suite.state_dict().items())
    assert not any(module.training for module in suite.modules())
    with pytest.raises(AssertionError, match="waits"):
        suite.train()(traces(suite.lm)[0], mode="dense")


def test_training_in_another_pass_starts_them_anew(suite: Suite) -> None:
    learned = [float(suite[site].activation.threshold) for site in suite.sites]
    thresholds.begin(suite, "plain")
    assert [float(suite[site].activation.threshold) for site in suite.sites] == learned
    thresholds.begin(suite, "pruned")
    assert suite.threshold_pass == "pruned"
    trace = traces(suite.lm)[0]
    suite.train()(trace, mode="pruned")
    after = [float(suite[site].activation.threshold) for site in suite.sites]
    thresholds.learn(suite, [trace], "plain")
    thresholds.learn(suite, [trace], "pruned")
    assert [float(suite[site].activation.threshold) for site in suite.sites] == pytest.approx(after, rel=1e-12)


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_other_dictionaries_have_none(lm: LanguageModel, make_suite: Make, kind: str) -> None:
    suite = make_suite(lm, activation=kind)
    assert not thresholds.foreign(suite, "pruned")
    thresholds.learn(suite, [], "pruned")


def test_their_pass_is_stored(suite: Suite, tmp_path: Path) -> None:
    lm = suite.lm
    sae = BatchTopKSae(
        kind="batchtopk",
        features=24,
        expansion=None,
        k=K,
        centred=True,
        normalise="dataset",
        bound=Bound(margin=None, tokens=1),
        threshold_rate=0.1,
        auxk=AuxK(k=1, dead_after=1),
        skip=False,
        anneal=Anneal(share=None, k_start=K),
        encoder="linear",
        mlp=Mlp(width=1, depth=1, nonlinearity="relu", skip=True, lr_factor=1.0),
        pursuit=Pursuit(method="gradient", steps=0),
    )
    stored = Suite.from_config(sae, suite.sites[:2], lm)
    for mode in (None, "plain", "pruned"):
        stored.threshold_pass = mode
        save(stored, tmp_path)
        assert load(tmp_path, lm).threshold_pass == mode
    note = json.loads((tmp_path / "suite.json").read_text())
    (tmp_path / "suite.json").write_text(json.dumps(note | {"format": 4}))  # the section of the configuration
    with pytest.raises(ValueError, match="format 4, this version reads 5"):
        load(tmp_path, lm)
