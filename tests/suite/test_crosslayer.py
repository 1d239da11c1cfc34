"""Crosslayer transcoders: the invariants of the passes, in float64, and by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from edge_lists import every_pair
from test_invariants import close, same

from scae.lm import UNEMBED, LanguageModel, Module, Trace
from scae.sites import Site, further
from scae.suite import Suite
from scae.suite.files import load, save

Make = Callable[..., Suite]


def crosslayer(lm: LanguageModel, make_suite: Make, **settings: Any) -> Suite:
    """Attention and crosslayer dictionaries at every layer, with units of all sizes."""
    sites = [Site(layer, kind) for layer in range(lm.paths.n_layers) for kind in ("attn", "clt")]
    suite = make_suite(lm, sites=sites, **settings)
    for number, site in enumerate(suite.sites):
        if site.kind == "clt" and suite[site].shape.further:
            sizes = suite[site].decoder.sizes
            sizes.copy_(0.5 + torch.arange(len(sizes), dtype=sizes.dtype) * 0.3 + 0.1 * number)
    return suite


def clts(suite: Suite) -> list[Site]:
    return [site for site in suite.sites if site.kind == "clt"]


def test_who_writes_where() -> None:
    sites = [Site(layer, kind) for layer in (3, 0, 2) for kind in ("attn", "clt")]
    assert further(Site(0, "clt"), sites) == (2, 3)
    assert further(Site(3, "clt"), sites) == ()
    assert further(Site(0, "attn"), sites) == further(Site(0, "mlp"), [Site(0, "mlp"), Site(1, "mlp")]) == ()


@pytest.mark.parametrize("mode", ["plain", "dense", "spliced"])
def test_what_stands_in_for_an_mlp_is_the_sum_of_all_that_write_there(
    lm: LanguageModel, trace: Trace, make_suite: Make, mode: Any
) -> None:
    suite = crosslayer(lm, make_suite)
    out = suite(trace, mode=mode)
    for target in clts(suite):
        own = suite[target]
        total = own.decoder.b.expand(trace.live.numel(), -1)
        for source in clts(suite):
            if source.layer > target.layer:
                continue
            dictionary, f = suite[source], out.codes[source].dense()
            if source == target:
                total = total + f @ dictionary.decoder.W
            else:
                at = dictionary.shape.further.index(target.layer)
                size = dictionary.decoder.sizes[at] * dictionary.writes.scale / own.writes.scale
                total = total + (f @ dictionary.decoder.further[at]) * size
        rebuilt = (total * own.writes.scale + own.writes.centre).view_as(trace.embed)
        wanted = torch.where(trace.live[..., None], rebuilt, trace.outputs[target.module])
        close(out.outputs[target.module], wanted)


def test_a_reader_meets_what_stands_before_it(lm: LanguageModel, make_suite: Make) -> None:
    suite = crosslayer(lm, make_suite)
    first = suite[Site(0, "clt")].decoder
    last = lm.paths.n_layers - 1
    for kind in ("attn", "mlp"):
        n_before = last - 1  # written at layers 1 to last - 1
        wanted = first.W + sum((first.sizes[m] * first.further[m] for m in range(n_before)), torch.zeros(()))
        close(first.rows(Module(last, kind)), wanted)
        assert first.rows(Module(1, kind)) is first.W
    close(first.rows(UNEMBED), first.W + (first.sizes[:, None, None] * first.further).sum(0))


@pytest.mark.parametrize("activation", ["topk", "relu"])
def test_all_connections_equal_the_dense_pass(
    lm: LanguageModel, trace: Trace, make_suite: Make, activation: str
) -> None:
    suite = crosslayer(lm, make_suite, activation=activation)
    dense = suite(trace, "dense")
    suite.connect(every_pair(suite))
    same(suite, suite(trace, "pruned"), dense)


def test_brute_force(lm: LanguageModel, trace: Trace, make_suite: Make, ragged: Callable[..., Any]) -> None:
    """Each pre-activation of an MLP's dictionary as a sum over its connections, each over the layers written to."""
    suite = crosslayer(lm, make_suite)
    suite.connect(ragged(suite.layout))
    out = suite(trace, "pruned")
    target = Site(lm.paths.n_layers - 1, "clt")
    own, inputs, layout = suite[target], suite.connections[target], suite.layout
    base = trace.embed
    for module in lm.paths.modules:
        if module.layer < target.layer or (module.kind == "attn" and not lm.paths.parallel):
            site = suite.site_at(module)
            assert site is not None
            base = base + torch.where(trace.live[..., None], suite[site].constant, trace.outputs[module])
    read = lm.paths.centre(base) / trace.scales[target.module]
    pre = ((read - own.reads.centre) / own.reads.scale) @ own.encoder.W.T + own.encoder.b
    for i in range(own.n_features):
        for up in inputs.up[int(inputs.crow[i]) : int(inputs.crow[i + 1])].tolist():
            site, j = layout.locate(up)
            dictionary = suite[site]
            row = dictionary.decoder.W[j]
            for m, layer in enumerate(dictionary.shape.further):
                if layer < target.layer:
                    row = row + dictionary.decoder.sizes[m] * dictionary.decoder.further[m, j]
            weight = own.encoder.W[i] @ lm.paths.centre(row) * dictionary.writes.scale / own.reads.scale
            f = out.codes[site].dense()[:, j].view(trace.live.shape)
            pre[..., i] = pre[..., i] + weight * f / trace.scales[target.module][..., 0]
    code = out.codes[target].dense().view(pre.shape)
    kept = code > 0
    wanted = torch.minimum(pre, own.ceiling)
    close(code[kept], wanted[kept])


def test_decoder_rows_have_one_norm_over_all_that_they_write(lm: LanguageModel, make_suite: Make) -> None:
    decoder = crosslayer(lm, make_suite)[Site(0, "clt")].decoder
    decoder.normalise()
    norm = decoder.W.square().sum(1) + decoder.further.square().sum((0, 2))
    close(norm, torch.ones_like(norm))
    decoder.W.grad, decoder.further.grad = torch.randn_like(decoder.W), torch.randn_like(decoder.further)
    decoder.project_gradient()
    along = (decoder.W.grad * decoder.W).sum(1) + (decoder.further.grad * decoder.further).sum((0, 2))
    close(along, torch.zeros_like(along))


def test_a_crosslayer_suite_is_stored(lm: LanguageModel, trace: Trace, make_suite: Make, tmp_path: Path) -> None:
    suite = crosslayer(lm, make_suite).float().double()
    save(suite, tmp_path)
    again = load(tmp_path, lm).double()
    assert [again[site].shape for site in again.sites] == [suite[site].shape for site in suite.sites]
    assert torch.equal(again(trace, "dense").residual(), suite(trace, "dense").residual())
