"""Every token in a unit of its own: the plain, the spliced and the dense pass, I7 among them, and no pruned one."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_units import everything, in_other_units, opened, trained, windows

from scae.config import AuxK
from scae.data import TokenWindows
from scae.dictionaries import create
from scae.lm import LanguageModel, Trace
from scae.suite import Mode, Suite
from scae.suite.files import load, save
from scae.training import start_from_data

Make = Callable[..., Any]
_ = windows  # a fixture


def by_token(suite: Suite) -> Suite:
    """The same suite, its tokens taken each by its own size."""
    dictionaries = {}
    for site in suite.sites:
        dictionaries[site] = create(suite[site].shape, by_token=True, **suite[site].spec)
        dictionaries[site].load_state_dict(suite[site].state_dict())
    return Suite(dictionaries, suite.lm, auxk=suite.auxk).to(suite[suite.sites[0]].encoder.W.dtype)


@pytest.fixture
def suite(lm: LanguageModel, make_suite: Make) -> Suite:
    made = make_suite(lm)
    return by_token(made)


@pytest.mark.parametrize("mode", ["plain", "dense", "pruned"])
def test_a_site_follows_the_equations_in_what_it_reads(suite: Suite, trace: Trace, mode: Mode) -> None:
    out = suite(trace, mode=mode)  # complete connections: the pruned pass is the dense one
    stream = trace.embed
    for level in suite.lm.paths.levels:
        for site in filter(None, map(suite.site_at, level)):
            own = suite[site]
            x = trace.outputs[site.module]
            if mode != "plain":
                x = suite.path(site).read(stream, trace)
            elif site.transcoder:
                x = suite.path(site).read(trace.stream(before(suite, site.module)), trace)
            x = x.flatten(0, 1)
            away = x - own.reads.centre
            size = away.square().mean(1, keepdim=True).sqrt()
            u = away / size - (0 if site.transcoder else own.decoder.b)
            code = out.codes[site].dense()
            pre = u @ own.encoder.W.T + own.encoder.b
            torch.testing.assert_close(code, pre.minimum(own.ceiling) * (code != 0), rtol=1e-9, atol=1e-9)
            v = code @ own.decoder.W + own.decoder.b
            expected = v * (own.writes.scale if site.transcoder else size) + own.writes.centre
            live = trace.live.flatten()
            torch.testing.assert_close(out.outputs[site.module].flatten(0, 1)[live], expected[live])
        for module in level:
            stream = stream + out.outputs[module]


def before(suite: Suite, module: Any) -> list[Any]:
    """The modules of the levels before that of this one."""
    found: list[Any] = []
    for level in suite.lm.paths.levels:
        if module in level:
            return found
        found += level
    raise AssertionError(module)


def test_there_is_no_pruned_pass(suite: Suite, trace: Trace, ragged: Make) -> None:
    suite.connect(ragged(suite.layout))
    with pytest.raises(ValueError, match=r"sae\.normalise=token"):
        suite(trace, mode="pruned")
    with pytest.raises(ValueError, match=r"sae\.normalise=token"):
        suite.inputs(suite.sites[-1], 1)


def test_it_is_stored(suite: Suite, trace: Trace, tmp_path: Path) -> None:
    save(suite.float(), tmp_path)
    loaded = load(tmp_path, suite.lm)
    for site in suite.sites:
        assert loaded[site].spec == suite[site].spec
        assert loaded[site].reads.by_token
        assert loaded[site].writes.by_token == (not site.transcoder)


@pytest.mark.parametrize("activation", ["topk", "relu"])
def test_the_unit_of_the_stream_changes_nothing(
    build_tiny: Make, make_suite: Make, windows: TokenWindows, activation: str
) -> None:
    """I7, in the passes that there are."""
    tiny = build_tiny("neox")
    hf = copy.deepcopy(tiny.hf).float()
    found = []
    for model in (hf, in_other_units(hf, "neox", 2.0**7)):
        model = opened(copy.deepcopy(model))
        made = make_suite(model, activation=activation, n_features=24, auxk=AuxK(k=3, dead_after=40)).float()
        suite, objective = by_token(made), everything(activation)
        start_from_data(suite, [windows.batch(range(12))], centred=activation != "relu", furthest=0.01)
        losses = trained(suite, windows, objective, "plain", range(4))
        losses += trained(suite, windows, objective, "spliced", range(4, 6))
        batch = windows.batch(range(12))
        dense = suite(model.trace(batch.tokens, batch.live), mode="dense")
        found.append((losses, dict(suite.named_parameters()), dense.codes))
    one, other = found
    assert [loss.terms for loss in one[0]] == [loss.terms for loss in other[0]]
    assert all(torch.equal(p, other[1][name]) for name, p in one[1].items())
    assert all(torch.equal(code.value, other[2][site].value) for site, code in one[2].items())


@pytest.mark.parametrize("centred", [True, False])
def test_it_starts_as_long_as_what_it_should_write(
    build_tiny: Make, make_suite: Make, windows: TokenWindows, centred: bool
) -> None:
    lm = build_tiny("gpt2").lm
    suite = by_token(make_suite(lm))
    for site in suite.sites:
        suite[site].ceiling.fill_(torch.inf)
        suite[site].encoder.b.data.zero_()
        suite[site].encoder.W.data.mul_(50)
    batch = windows.batch(range(12))
    start_from_data(suite, [batch], centred=centred, furthest=0.01)
    trace = lm.trace(batch.tokens, batch.live)
    with torch.no_grad():
        out = suite(trace, mode="plain")
    for site in suite.sites:
        own, live = suite[site], trace.live
        read = trace.outputs[site.module]
        size = own.size(read.flatten(0, 1))
        nothing = (own.decoder.b.detach() * size + own.writes.centre).expand(live.numel(), -1)[live.flatten()]
        ours, target = (each[site.module][live] - nothing for each in (out.outputs, trace.outputs))
        lengths = [float(x.norm(dim=1).median()) for x in (ours, target)]
        assert lengths[0] == pytest.approx(lengths[1], rel=0.1)
