"""Sites: their spelling, what a dictionary there replaces and reads, and their order."""

import pytest
import torch

from scae.config.sites import LINEAR
from scae.lm import EMBED, UNEMBED, LanguageModel, Module, Trace
from scae.lm.modules import levels
from scae.lm.paths import Attention, Direct, ToLogits
from scae.sites import IN_LAYERS, KINDS, SINK, SOURCE, Site, in_order

SITES = [Site.parse(text) for text in ("0.attn", "0.mlp", "1.attn", "1.mlp", "10.attn")]


POINTS = [Site(1, "resid"), Site.at("blocks.1.attn.hook_z"), Site.at("hook_embed")]


@pytest.mark.parametrize("site", [*SITES, Site(0, "mlp_out"), *POINTS, SOURCE, SINK], ids=str)
def test_spelling_and_parsing_are_inverse(site: Site) -> None:
    assert Site.parse(str(site)) == site


@pytest.mark.parametrize(
    "text", ["", "3", "attn", ".attn", "3.", "3.stream", "-1.attn", "1.5.mlp", "x.mlp", "3 .attn", "0.embed"]
)
def test_what_is_no_site_is_refused_with_an_example(text: str) -> None:
    told = r"is no site: write LAYER\.KIND .*attn, mlp, clt, mlp_out, resid, as in '3\.attn', or one of embed, unembed"
    with pytest.raises(ValueError, match=told) as caught:
        Site.parse(text)
    assert f"'{text}'" in str(caught.value)


def test_what_a_kind_replaces_reads_and_along_which_path(lm: LanguageModel) -> None:
    attn, mlp = Site(1, "attn"), Site(1, "mlp")
    assert IN_LAYERS == ("attn", "mlp", "clt", "mlp_out", "resid")
    assert set(KINDS) == {*IN_LAYERS, SOURCE.kind, SINK.kind, "hook"}
    assert (attn.module, mlp.module) == (Module(1, "attn"), Module(1, "mlp"))
    assert (attn.transcoder, mlp.transcoder) == (False, True)
    assert attn.path(lm.paths) == Attention(lm.paths, attn.module)
    assert mlp.path(lm.paths) == Direct(lm.paths, mlp.module)


def test_the_ends_write_what_the_embedding_writes_and_read_what_the_unembedding_reads(lm: LanguageModel) -> None:
    assert (SOURCE.module, SINK.module) == (EMBED, UNEMBED)
    assert (SOURCE.transcoder, SINK.transcoder) == (False, True)
    assert SINK.path(lm.paths) == ToLogits(lm.paths, UNEMBED)
    with pytest.raises(ValueError, match="no linear path of the residual stream leads to embed"):
        SOURCE.path(lm.paths)


def test_the_path_leads_to_what_the_dictionary_reads(lm: LanguageModel, trace: Trace) -> None:
    """An autoencoder reads what its module writes, a transcoder what its module reads."""
    reads: dict[Module, torch.Tensor] = {}

    def look(module: Module, read: torch.Tensor, wrote: torch.Tensor) -> torch.Tensor:
        reads[module] = read
        return wrote

    wrote = lm.splice(trace, look, readers=lm.paths.modules)
    streams = dict(trace.streams(lm.paths.levels))
    for layer in range(lm.paths.n_layers):
        for kind in LINEAR:
            site = Site(layer, kind)
            truth = reads[site.module] if site.transcoder else wrote[site.module]
            ours = site.path(lm.paths).read(streams[site.module], trace)
            torch.testing.assert_close(ours, truth, rtol=1e-8, atol=1e-9)


def test_the_order_is_that_of_the_modules() -> None:
    """By number, so that layer 10 comes after layer 2; attention before the MLP."""
    wanted = [*SITES[:4], Site(2, "mlp"), SITES[4]]
    found = in_order(reversed(wanted), levels(11, parallel=False))
    assert [site for level in found for site in level] == wanted


def test_a_level_of_a_sequential_model_has_one_site_or_none() -> None:
    missing = in_order([SITES[3], SITES[0], SITES[2]], levels(2, parallel=False))
    assert missing == [[SITES[0]], [], [SITES[2]], [SITES[3]]]


def test_a_level_of_a_parallel_model_has_the_sites_of_a_layer() -> None:
    assert in_order(reversed(SITES[:4]), levels(2, parallel=True)) == [SITES[:2], SITES[2:4]]
    assert in_order([SITES[3], SITES[0], SITES[2]], levels(2, parallel=True)) == [SITES[:1], SITES[2:4]]


def test_no_sites_leave_the_levels_empty() -> None:
    assert in_order([], levels(2, parallel=True)) == [[], []]


def test_a_point_is_a_level_behind_the_modules_of_its_layer() -> None:
    found = in_order([*POINTS, *SITES[:4]], levels(2, parallel=True))
    assert found == [[POINTS[2]], SITES[:2], SITES[2:4], [POINTS[0]], [POINTS[1]]]


def test_the_kinds_that_are_pruned_are_those_with_a_path() -> None:
    """The configuration knows them by name, without torch."""
    assert tuple(kind for kind in IN_LAYERS if KINDS[kind].path is not None) == LINEAR
    assert [site.linear for site in (Site(0, "attn"), Site(0, "mlp_out"), *POINTS)] == [True, *[False] * 4]
