"""Pruned suites of every sort, and windows for them, that tests of circuits and of what they are made from need."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from scae.connections import Connections
from scae.dictionaries import BatchTopK
from scae.lm import LanguageModel, Trace
from scae.sites import SINK, SOURCE, Site
from scae.suite import Suite

Make = Callable[..., Suite]
Ragged = Callable[..., Connections]

SORTS: dict[str, dict[str, Any]] = {
    "topk": {},
    "relu": {"activation": "relu"},
    "batchtopk": {"activation": "batchtopk"},
    "jumprelu": {"activation": "jumprelu"},
    "matryoshka": {"activation": "matryoshka"},
    "groupmax": {"activation": "groupmax"},
    "gated": {"activation": "gated"},
    "tokens": {"ends": (SOURCE,)},
    "predictions": {"ends": (SINK,)},
    "both ends": {"ends": (SOURCE, SINK)},
    "one attention": {"sites": (Site(1, "attn"),)},
    "without an attention": {"sites": (Site(0, "mlp"), Site(1, "attn"), Site(1, "mlp"))},
    "crosslayer": {"sites": "crosslayer"},
    "crosslayer, both ends": {"sites": "crosslayer", "ends": (SOURCE, SINK)},
}


def pruned_suite(lm: LanguageModel, sort: str, make_suite: Make, ragged: Ragged, trace: Trace) -> Suite:
    settings = dict(SORTS[sort])
    if settings.get("sites") == "crosslayer":
        settings["sites"] = [Site(layer, kind) for layer in range(lm.paths.n_layers) for kind in ("attn", "clt")]
    suite = make_suite(lm, **settings)
    for number, site in enumerate(suite.sites):
        activation = suite[site].activation
        if isinstance(activation, BatchTopK):
            activation.threshold.fill_(0.31)
        if suite[site].shape.further:
            sizes = suite[site].decoder.sizes
            sizes.copy_(0.5 + torch.arange(len(sizes), dtype=sizes.dtype) * 0.3 + 0.1 * number)
    if suite.source is not None:
        suite.source.measure(trace.tokens[trace.live])
    suite.threshold_pass = "pruned"
    suite.connect(ragged(suite.layout))
    return suite.eval()


@pytest.fixture(scope="module")
def one(lm: LanguageModel, batch: tuple[Any, Any]) -> Trace:
    """One window, a BOS at its start."""
    tokens, live = batch
    return lm.trace(tokens[:1], live[:1])


@pytest.fixture(scope="module")
def suite(lm: LanguageModel, sort: str, make_suite: Make, ragged: Ragged, one: Trace) -> Suite:
    """Of the sort that the module asks for."""
    return pruned_suite(lm, sort, make_suite, ragged, one)
