"""Stored activations in a plan: what names a store, who shares it, and what is refused."""

import pytest
from test_plan import Of, changed, downstream_of, of  # noqa: F401  # a fixture

from scae.config import ConfigError
from scae.config.loss import BY_SITE
from scae.experiment.plan import Plan
from scae.objectives.terms import TERMS

STORED = "activations=stored"


def store_of(of: Of, *overrides: str) -> str:  # noqa: F811
    artifact = Plan(of(STORED, *overrides)).activations
    assert artifact is not None
    return artifact.name


def test_a_store_names_the_pretrained_suite_and_live_activations_name_nothing(of: Of) -> None:  # noqa: F811
    assert Plan(of()).activations is None
    assert changed(of, STORED) == downstream_of("pretrain")
    for override in ("activations.dtype=bfloat16", "activations.tokens=999", "activations.seed=7"):
        assert changed(of, override, base=(STORED,)) == downstream_of("pretrain")


@pytest.mark.parametrize(
    "override",
    ["sae.k=3", "sae=batchtopk", "pretrain.lr=1e-2", "pretrain.loss.recon.kind=mse", "sites.embed=true", "loss=ce"],
)
def test_what_a_store_does_not_depend_on(of: Of, override: str) -> None:  # noqa: F811
    assert store_of(of, override) == store_of(of)


@pytest.mark.parametrize(
    "override",
    [
        "data.context=64",
        "data.skip_first=3",
        "model.steps=7",
        "sites=mlp_transcoder",
        "seed=1",
        "trainer.precision=bf16-mixed",
        "pretrain.steps=7",
        "activations.tokens=1000",
        "activations.dtype=bfloat16",
    ],
)
def test_what_a_store_depends_on(of: Of, override: str) -> None:  # noqa: F811
    assert store_of(of, override) != store_of(of)


def test_a_fixed_size_is_shared_by_runs_of_any_length_and_a_fixed_seed_by_those_of_any_seed(of: Of) -> None:  # noqa: F811
    fixed = "activations.tokens=4096"
    assert store_of(of, fixed, "pretrain.steps=7") == store_of(of, fixed)
    local = (fixed, "activations.seed=5")
    assert Plan(of(STORED, *local)).windows_kept == 4096 // 128


@pytest.mark.parametrize("term", sorted(set(TERMS) - {"recon", "partial", "sparsity", "auxk"}))
def test_a_loss_that_needs_the_live_model_is_refused(of: Of, term: str) -> None:  # noqa: F811
    assert TERMS[term].reads_stream
    with pytest.raises(ConfigError) as refused:
        of(STORED, f"pretrain.loss.{term}.weight=0.5")
    assert f"pretrain.loss.{term}.weight=0.5" in str(refused.value)
    assert "activations=live" in str(refused.value)
    of(STORED, f"loss.{term}.weight=0.5")  # finetuning runs the model


def test_what_is_allowed_looks_at_each_site_alone() -> None:
    assert not any(TERMS[term].reads_stream for term in BY_SITE)
