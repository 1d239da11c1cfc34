"""A suite begins as what lies at a path: a stored suite to the bit, files of other libraries as the same function."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scae.config import ConfigError
from scae.interop.beginning import Beginning
from scae.interop.export import export
from scae.lm import LanguageModel, Trace
from scae.suite import Suite
from scae.suite.files import save

Make = Callable[..., Any]


@pytest.fixture
def gpt2(build_tiny: Make) -> LanguageModel:
    return build_tiny("gpt2").lm


@pytest.fixture
def seen(gpt2: LanguageModel, batch: tuple[Any, Any]) -> Trace:
    return gpt2.trace(*batch)


def rounded(suite: Suite, *, equal_rows: bool = True) -> Suite:
    """In float64, with numbers that a file in float32 has exactly, and no ceilings."""
    for site in suite.sites:
        suite[site].ceiling.fill_(torch.inf)
        if equal_rows:
            suite[site].decoder.normalise()
        if "threshold" in dict(suite[site].activation.named_buffers()):
            suite[site].activation.threshold.fill_(0.25)
    suite.threshold_pass = "plain"
    return suite.float().double().eval()


@pytest.fixture
def stored(gpt2: LanguageModel, make_suite: Make, tmp_path: Path) -> Suite:
    """A suite of TopK, written to `tmp_path / "suite"`."""
    return keep(rounded(make_suite(gpt2)), tmp_path)


def keep(suite: Suite, folder: Path) -> Suite:
    (folder / "suite").mkdir()
    save(suite, folder / "suite")
    return suite


def in_units_of_its_own(suite: Suite) -> Suite:
    """As if they had been measured."""
    generator = torch.Generator().manual_seed(8)
    for site in suite.sites:
        own = suite[site]
        own.reads.centre.copy_(torch.randn(16, generator=generator))
        own.reads.scale.fill_(float(torch.rand((), generator=generator)) + 0.2)
        if site.transcoder:
            own.writes.centre.copy_(torch.randn(16, generator=generator))
            own.writes.scale.fill_(float(torch.rand((), generator=generator)) + 0.2)
        else:
            own.writes.load_state_dict(own.reads.state_dict())
    return suite.float().double()


@pytest.mark.parametrize("activation", ["topk", "relu", "batchtopk"])
@pytest.mark.parametrize("unit_norm", [True, False])
def test_a_stored_suite_goes_on_as_it_is(
    gpt2: LanguageModel, make_suite: Make, seen: Trace, tmp_path: Path, activation: str, unit_norm: bool
) -> None:
    stored_ = keep(rounded(make_suite(gpt2, activation=activation)), tmp_path)
    stored_[stored_.sites[0]].tokens_since_fired[1] = 5
    suite = rounded(make_suite(gpt2, activation=activation, seed=3), equal_rows=False)
    suite.threshold_pass = None
    beginning = Beginning(str(tmp_path / "suite"), suite)
    assert beginning.to_measure == ()
    beginning.begin(unit_norm=unit_norm)
    assert suite.threshold_pass == "plain"
    ours, theirs = suite(seen, "plain"), stored_(seen, "plain")
    for site in suite.sites:
        assert torch.equal(ours.codes[site].value, theirs.codes[site].value)
        assert torch.equal(ours.outputs[site.module], theirs.outputs[site.module])


@pytest.mark.parametrize(
    ("activation", "format"),
    [("topk", "saelens"), ("relu", "saelens"), ("batchtopk", "saelens"), ("topk", "sparsify"), ("relu", "sparsify")],
)
def test_files_of_other_libraries_are_the_same_function_in_any_units(
    gpt2: LanguageModel,
    make_suite: Make,
    seen: Trace,
    tmp_path: Path,
    activation: str,
    format: str,
) -> None:
    stored_ = keep(rounded(make_suite(gpt2, activation=activation)), tmp_path)
    export(tmp_path / "suite", tmp_path / "out", format=format)
    suite = rounded(make_suite(gpt2, activation=activation, seed=3), equal_rows=False)
    beginning = Beginning(str(tmp_path / "out"), in_units_of_its_own(suite))
    assert beginning.to_measure == suite.sites
    units = {site: float(suite[site].writes.scale) for site in suite.sites}
    theirs = stored_(seen, "plain")
    for unit_norm in (False, True):
        beginning.begin(unit_norm=unit_norm)
        ours = suite(seen, "plain")
        for site in suite.sites:
            assert suite[site].writes.scale == units[site], "the unit of a site is its own"
            one, other = ours.codes[site], theirs.codes[site]
            assert torch.equal(one.col, other.col)
            assert torch.equal(one.crow, other.crow)
            factor = float(stored_[site].writes.scale) / units[site] if unit_norm else 1.0
            torch.testing.assert_close(one.value, other.value * factor, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(ours.outputs[site.module], theirs.outputs[site.module], rtol=1e-4, atol=1e-5)
            if unit_norm:
                norms = suite[site].decoder.W.norm(dim=1)
                torch.testing.assert_close(norms, torch.ones_like(norms), rtol=1e-4, atol=1e-4)


def test_of_more_sites_than_are_wanted_the_others_stay_where_they_are(
    stored: Suite, make_suite: Make, gpt2: LanguageModel, seen: Trace, tmp_path: Path
) -> None:
    site = stored.sites[2]
    wider = {"sites": [site], "n_features": stored[site].n_features}
    export(tmp_path / "suite", tmp_path / "all", format="saelens")
    export(tmp_path / "suite", tmp_path / "one", format="saelens", sites=[site])
    for path in ("suite", "all", "one", "one/sae_weights.safetensors"):
        suite = rounded(make_suite(gpt2, seed=3, **wider), equal_rows=False)
        Beginning(str(tmp_path / path), suite).begin(unit_norm=True)
        ours, theirs = suite(seen, "plain"), stored(seen, "plain")
        torch.testing.assert_close(ours.outputs[site.module], theirs.outputs[site.module], rtol=1e-4, atol=1e-5)


def refused(path: Path, suite: Suite, *told: str, unit_norm: bool = True) -> None:
    with pytest.raises(ConfigError) as caught:
        Beginning(str(path), suite).begin(unit_norm=unit_norm)
    message = str(caught.value)
    assert message.startswith(f"pretrain.init_from={path}: ")
    assert "\n" not in message
    for part in told:
        assert part in message


def test_what_does_not_fit_is_named(stored: Suite, make_suite: Make, gpt2: LanguageModel, tmp_path: Path) -> None:
    folder, files, one = tmp_path / "suite", tmp_path / "files", tmp_path / "one"
    export(folder, files, format="saelens")
    export(folder, one, format="saelens", sites=["0.mlp"])
    sites = ", ".join(map(str, stored.sites))
    like = make_suite(gpt2, seed=3)
    refused(tmp_path / "nowhere", like, "no such file or folder")
    refused(tmp_path, like, "no dictionary there", "a run directory", "cfg.json and sae_weights.safetensors")
    refused(one, like, f"one dictionary for {len(stored.sites)} sites", "sites.kinds", f"named by site: {sites}")
    for path in (folder, files):
        refused(path, make_suite(gpt2, n_features=10), "0.attn is an autoencoder of type topk with 9 features",
                "needed: an autoencoder of type topk with 10 features")  # fmt: skip
    refused(folder, make_suite(gpt2, activation="relu"), "of type topk", "of type vanilla")
    refused(files, make_suite(gpt2, activation="relu"), "sae.kind=vanilla keeps whatever is positive")
    (files / "1.mlp" / "cfg.json").unlink()
    refused(files, like, "nothing for 1.mlp", "it has 0.attn, 0.mlp, 1.attn", "sites.layers")
    note = json.loads((folder / "suite.json").read_text())
    del note["dictionaries"]["0.attn"]
    (folder / "suite.json").write_text(json.dumps(note))
    refused(folder, like, "nothing for 0.attn", "it has 0.mlp")
    (folder / "suite.json").write_text("{")
    refused(folder, like, "suite.json is no description of a suite")


def test_rows_that_cannot_be_kept_at_norm_one_are_refused(
    gpt2: LanguageModel, make_suite: Make, tmp_path: Path
) -> None:
    keep(rounded(make_suite(gpt2), equal_rows=False), tmp_path)
    like = rounded(make_suite(gpt2, seed=3))
    refused(tmp_path / "suite", like, "the 4 largest would be others", "pretrain.unit_norm=false leaves")
    Beginning(str(tmp_path / "suite"), like).begin(unit_norm=False)


def test_another_k_is_said(
    stored: Suite, make_suite: Make, gpt2: LanguageModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    export(tmp_path / "suite", tmp_path / "out", format="saelens")
    path = tmp_path / "out" / "1.attn" / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"k": 7}))
    Beginning(str(tmp_path / "out"), make_suite(gpt2, seed=3))
    assert "keeps the 7 largest; from now on sae.k=4 are kept" in caplog.text
    assert caplog.text.count("largest") == 1
