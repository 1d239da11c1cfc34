"""k falls from k_start over the first steps of pretraining, in training alone; what is stored knows k alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scae.config import Anneal, AuxK, BatchTopKSae, Bound, Mlp, Pursuit, Sae, TopKSae
from scae.config.sae import MatryoshkaSae
from scae.dictionaries import Picking, Shape, create
from scae.lm import LanguageModel
from scae.suite import Suite
from scae.suite.files import load, save

Make = Callable[..., Any]
K, K_START = 3, 9
SPECS: dict[str, dict[str, Any]] = {
    "topk": {"type": "topk", "k": K},
    "batchtopk": {"type": "batchtopk", "k": K, "threshold_rate": 0.1},
    "matryoshka": {"type": "matryoshka", "k": K, "threshold_rate": 0.1, "groups": [0.25, 0.75]},
}
SHARED: dict[str, Any] = {
    "features": 12,
    "expansion": None,
    "centred": True,
    "skip": False,
    "normalise": "dataset",
    "encoder": "linear",
    "mlp": Mlp(width=1, depth=1, nonlinearity="relu", skip=True, lr_factor=1.0),
    "pursuit": Pursuit(method="gradient", steps=0),
    "bound": Bound(margin=None, tokens=1),
    "auxk": AuxK(k=1, dead_after=1),
    "k": K,
}


@given(
    share=st.floats(0.01, 0.99),
    k=st.integers(1, 50),
    more=st.integers(0, 50),
    done=st.lists(st.floats(0, 1), min_size=2, max_size=20),
)
def test_it_falls_from_k_start_to_k_and_stays(share: float, k: int, more: int, done: list[float]) -> None:
    anneal = Anneal(share=share, k_start=k + more)
    found = [anneal.k(one, last=k) for one in sorted(done)]
    assert found == sorted(found, reverse=True)
    assert all(k <= one <= k + more for one in found)
    assert anneal.k(0.0, last=k) == k + more
    assert anneal.k(share / 2, last=k) == pytest.approx(k + more / 2, abs=0.51)
    assert anneal.k(share, last=k) == anneal.k(1.0, last=k) == k
    assert Anneal(share=None, k_start=k + more).k(done[0], last=k) == k


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_in_training_alone(spec: dict[str, Any]) -> None:
    activation = create(Shape(12, 4, 4, transcoder=True), **spec).activation
    assert isinstance(activation, Picking)
    activation.anneal = Anneal(share=0.5, k_start=K_START)
    pre = torch.rand(40, 12, generator=torch.Generator().manual_seed(0)) + 0.1
    live = torch.ones(40, dtype=torch.bool)
    for done, k in ((0.0, K_START), (0.25, 6), (0.5, K), (0.9, K)):
        activation.train().done = done
        assert len(activation.support(pre, live).value) == 40 * k
    activation.done = 0.0
    plain = create(Shape(12, 4, 4, transcoder=True), **spec).activation
    plain.load_state_dict(activation.state_dict(), strict=True)
    assert torch.equal(activation.eval().support(pre, live).dense(), plain.eval().support(pre, live).dense())


@pytest.mark.parametrize(
    ("section", "own"),
    [
        (TopKSae, {"kind": "topk"}),
        (BatchTopKSae, {"kind": "batchtopk", "threshold_rate": 0.1}),
        (MatryoshkaSae, {"kind": "matryoshka", "threshold_rate": 0.1, "groups": [0.25, 0.75]}),
    ],
)
def test_a_new_suite_has_it_and_a_stored_one_does_not(
    build_tiny: Make, all_sites: Make, tmp_path: Path, section: type[Sae], own: dict[str, Any]
) -> None:
    lm: LanguageModel = build_tiny("gpt2").lm
    off, on = (section(**SHARED, **own, anneal=Anneal(share=share, k_start=K_START)) for share in (None, 0.5))
    sites = all_sites(lm)
    new: Suite = Suite.from_config(on, sites, lm)  # type: ignore[arg-type]  # one of the union
    assert [activation.k_now for activation in new.picking] == [K_START] * len(sites)
    assert on.spec == off.spec
    save(new, tmp_path)
    loaded = load(tmp_path, lm)
    assert [activation.k_now for activation in loaded.train().picking] == [K] * len(sites)
    plain = Suite.from_config(off, sites, lm)  # type: ignore[arg-type]
    assert [activation.k_now for activation in plain.picking] == [K] * len(sites)
