"""Dictionaries at their sites: which modules they replace, in which order, and what cannot be put together."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from scae.connections import Connections
from scae.lm import LanguageModel, Module
from scae.sites import KINDS, Site
from scae.suite import Suite, choose_sites

Make = Callable[..., Suite]


def test_a_suite_is_in_the_order_of_the_model(lm: LanguageModel, make_suite: Make, all_sites: Any) -> None:
    sites = all_sites(lm)
    assert [site.module for site in sites] == list(lm.paths.modules)
    assert make_suite(lm, sites=sites[::-1]).sites == tuple(sites)


def test_a_module_without_a_dictionary_has_no_site(lm: LanguageModel, make_suite: Make) -> None:
    mlp = Site(1, "mlp")
    suite = make_suite(lm, sites=[mlp])
    assert {module: suite.site_at(module) for module in lm.paths.modules} == {
        module: mlp if module == Module(1, "mlp") else None for module in lm.paths.modules
    }
    assert mlp in suite
    assert Site(0, "mlp") not in suite
    assert suite.path(mlp) == mlp.path(lm.paths)


def test_a_site_beyond_the_model_is_refused(lm: LanguageModel, make_suite: Make) -> None:
    with pytest.raises(ValueError, match=r"sites in layers of the model, .*; got 0\.mlp, 7\.attn"):
        make_suite(lm, sites=[Site(0, "mlp"), Site(7, "attn")])


def test_two_sites_at_one_module_are_refused(
    lm: LanguageModel, make_suite: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "attn", replace(KINDS["attn"], replaces="mlp"))
    assert make_suite(lm, sites=[Site(0, "attn"), Site(1, "mlp")]).site_at(Module(0, "mlp")) == Site(0, "attn")
    with pytest.raises(ValueError, match=r"no two at one module; got 0\.attn, 0\.mlp"):
        make_suite(lm, sites=[Site(0, "attn"), Site(0, "mlp")])


def test_connections_of_another_layout_are_refused(lm: LanguageModel, make_suite: Make) -> None:
    suite = make_suite(lm)
    layout = suite.layout
    one_more = replace(layout, sizes=(*layout.sizes[:-1], layout.sizes[-1] + 1))
    with pytest.raises(ValueError, match="cannot join a suite of"):
        suite.connect(Connections.none(one_more))
    assert suite.connections == Connections.complete(layout)


def test_sites_are_chosen_by_layer_and_kind_in_order(lm: LanguageModel) -> None:
    assert choose_sites(lm.paths, [1, 0], ("mlp", "attn")) == [
        Site(0, "attn"), Site(0, "mlp"), Site(1, "attn"), Site(1, "mlp")
    ]  # fmt: skip
    assert choose_sites(lm.paths, "all", ["mlp"]) == [Site(layer, "mlp") for layer in range(lm.paths.n_layers)]
    with pytest.raises(ValueError, match=rf"this model has layers 0 to {lm.paths.n_layers - 1}"):
        choose_sites(lm.paths, [0, 9], ["attn"])
