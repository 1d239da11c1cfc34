"""Sites: their order, their spelling, and which of them reads which."""

import pytest

from scae.sites import Site, levels, precedes

SITES = [Site.parse(text) for text in ("0.attn", "0.mlp", "1.attn", "1.mlp", "10.attn")]


def test_the_order_is_that_of_a_forward_pass() -> None:
    """By number, so that layer 10 comes after layer 2; attention before the MLP."""
    assert sorted(reversed([*SITES, Site(2, "mlp")])) == [*SITES[:4], Site(2, "mlp"), SITES[4]]


@pytest.mark.parametrize("site", SITES, ids=str)
def test_spelling_and_parsing_are_inverse(site: Site) -> None:
    assert Site.parse(str(site)) == site


@pytest.mark.parametrize("text", ["", "3", "attn", ".attn", "3.", "3.resid", "-1.attn", "1.5.mlp", "x.mlp", "3 .attn"])
def test_what_is_no_site_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no site: write LAYER\.KIND .*attn, mlp.*'3\.attn'") as caught:
        Site.parse(text)
    assert f"'{text}'" in str(caught.value)


def test_hook_names() -> None:
    attn, mlp = Site(3, "attn"), Site(3, "mlp")
    assert (attn.hook_out, mlp.hook_out) == ("blocks.3.hook_attn_out", "blocks.3.hook_mlp_out")
    assert attn.hook_pattern == mlp.hook_pattern == "blocks.3.attn.hook_pattern"


# rows: upstream; columns: downstream; both 0.attn 0.mlp 1.attn 1.mlp
TRUTH = {False: ["0111", "0011", "0001", "0000"], True: ["0011", "0011", "0000", "0000"]}


@pytest.mark.parametrize("parallel", [False, True], ids=["sequential", "parallel"])
def test_precedes(parallel: bool) -> None:
    table = ["".join(str(int(precedes(up, down, parallel=parallel))) for down in SITES[:4]) for up in SITES[:4]]
    assert table == TRUTH[parallel]


def test_levels_of_a_sequential_model_are_single_sites() -> None:
    assert levels(reversed(SITES), parallel=False) == [[site] for site in SITES]


def test_levels_of_a_parallel_model_are_layers() -> None:
    assert levels(reversed(SITES), parallel=True) == [SITES[:2], SITES[2:4], SITES[4:]]


@pytest.mark.parametrize("parallel", [False, True], ids=["sequential", "parallel"])
def test_a_level_reads_all_before_it_and_nothing_of_itself(parallel: bool) -> None:
    groups = levels([SITES[0], SITES[1], SITES[3], SITES[4]], parallel=parallel)
    for number, group in enumerate(groups):
        for down in group:
            assert not any(precedes(up, down, parallel=parallel) for up in group)
            assert all(precedes(up, down, parallel=parallel) for earlier in groups[:number] for up in earlier)


def test_no_modules_have_no_levels() -> None:
    assert levels([], parallel=False) == []
