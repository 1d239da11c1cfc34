"""Experiments with suites that the pruned pass does not serve, from the command to the report."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from experiments import alone, configure, execute, train

from scae import open_run
from scae.config import ConfigError

_ = alone  # a fixture of every test here, too
E2E = (
    *("experiment=e2e_batchtopk", "model=smoke", "sites.hook=blocks.0.hook_resid_post", "data.max_tokens=100000"),
    *("pretrain.batch_size=8", "evaluation.tokens=1024", "data.context=64"),
)
SHORT = ("experiment=smoke", "model.steps=6", "pretrain.steps=4", "trainer.progress=false")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder, so that the model is trained once."""
    return tmp_path_factory.mktemp("unpruned") / "artifacts"


@pytest.fixture
def runs(artifacts: Path, tmp_path: Path) -> Callable[..., dict[str, float]]:
    def run(*overrides: str) -> dict[str, float]:
        return execute(
            configure(*SHORT, f"paths.artifacts={artifacts}", f"paths.output={tmp_path / 'out'}", *overrides)
        )

    return run


@pytest.mark.parametrize(
    ("sites", "found"),
    [
        (("sites=resid",), ["0.resid", "1.resid"]),
        (("sites=mlp_out",), ["0.mlp_out", "1.mlp_out"]),
        (("sites=resid", "sites.stride=2"), ["0.resid"]),
        (("sites=hook", "sites.hook=blocks.1.attn.hook_z"), ["blocks.1.attn.hook_z"]),
        (("sites=mlp_transcoder", "sae.skip=true"), ["0.mlp", "1.mlp"]),
        (E2E, ["blocks.0.hook_resid_post"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_sites_without_a_path(
    runs: Callable[..., dict[str, float]], tmp_path: Path, sites: tuple[str, ...], found: list[str]
) -> None:
    metrics = runs(*sites)
    assert all(math.isfinite(value) for value in metrics.values())
    assert not [key for key in metrics if key.startswith(("pruned", "dense", "random", "connectivity"))]
    for site in found:
        assert metrics[f"plain/fvu/{site}"] > 0
        assert {f"alone/ce_diff/{site}", f"alone/kl/{site}", f"spliced/fvu/{site}"} <= metrics.keys()
    assert len([key for key in metrics if key.startswith("alone/kl/")]) == len(found)
    page = (tmp_path / "out/report.md").read_text()
    assert "## Each dictionary alone" in page
    assert found[0] in page
    assert {"pretrain", "evaluate", "analyze"} == set(json.loads((tmp_path / "out/run.json").read_text())["stages"])


def test_an_unpruned_run_is_opened(artifacts: Path, tmp_path: Path) -> None:
    own = [f"paths.artifacts={artifacts}", f"hydra.run.dir={tmp_path / 'out'}"]
    done = train(*SHORT, *own, "sites=resid", "sites.layers=[1]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    run = open_run(tmp_path / "out")
    assert run.config.stages == ["model", "activations", "pretrain", "evaluate", "analyze"]
    assert [str(site) for site in run.suite.sites] == ["1.resid"] == [str(site) for site in run.pretrained.sites]
    out = run.suite(run.lm.trace("def one(two):"), mode="spliced")
    assert out.residual().shape[-1] == run.lm.paths.d_model
    assert run.metrics["spliced/ce"] > 0


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ("sites=resid", "stages=[select]"),
            r"sites\.kinds=\['resid'\]: no linear path .* to resid; so there is nothing for select to prune",
        ),
        (
            ("sites=hook", "sites.hook=blocks.0.hook_resid_post", "stages=finetune"),
            r"sites\.hook=.*for finetune to prune",
        ),
        (("sites=mlp_out", "sites.embed=true"), r"sites\.embed=true: it has connections"),
        (("sites=scae", "sites.kinds=[mlp,mlp_out]"), "mlp and mlp_out replace the same MLP"),
        (("sites=hook", "sites.hook=resid"), r"sites\.hook=resid: no name of an activation"),
        (("sites=scae", "sites.kinds=[]"), r"sites\.kinds=\[\] and sites\.hook=null: no site"),
    ],
)
def test_what_is_not_served_is_refused(overrides: tuple[str, ...], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        configure("experiment=smoke", "paths.output=out", *overrides)
