"""Modules: their names, their order, and which of them reads which."""

from itertools import pairwise

import pytest

from scae.lm import LanguageModel, Module
from scae.lm.modules import levels

MODULES = [Module(0, "attn"), Module(0, "mlp"), Module(1, "attn"), Module(1, "mlp")]


def test_names() -> None:
    attn, mlp = Module(3, "attn"), Module(3, "mlp")
    assert (str(attn), str(mlp)) == ("3.attn", "3.mlp")
    assert (attn.hook_out, mlp.hook_out) == ("blocks.3.hook_attn_out", "blocks.3.hook_mlp_out")
    assert attn.hook_pattern == mlp.hook_pattern == "blocks.3.attn.hook_pattern"
    assert attn.hook_scores == "blocks.3.attn.hook_attn_scores"


# rows: upstream; columns: downstream; both 0.attn 0.mlp 1.attn 1.mlp
TRUTH = {False: ["0111", "0011", "0001", "0000"], True: ["0011", "0011", "0000", "0000"]}


@pytest.mark.parametrize("parallel", [False, True], ids=["sequential", "parallel"])
def test_who_reads_whom(parallel: bool) -> None:
    at = {module: number for number, level in enumerate(levels(2, parallel=parallel)) for module in level}
    table = ["".join(str(int(at[up] < at[down])) for down in MODULES) for up in MODULES]
    assert table == TRUTH[parallel]


def test_levels_of_a_sequential_model_are_single_modules() -> None:
    assert levels(2, parallel=False) == tuple((module,) for module in MODULES)


def test_levels_of_a_parallel_model_are_layers() -> None:
    assert levels(2, parallel=True) == (tuple(MODULES[:2]), tuple(MODULES[2:]))


@pytest.mark.parametrize("parallel", [False, True], ids=["sequential", "parallel"])
def test_the_order_is_that_of_a_forward_pass(parallel: bool) -> None:
    """By number, so that layer 10 comes after layer 2; attention before the MLP; every module once."""
    order = [module for level in levels(11, parallel=parallel) for module in level]
    assert len(set(order)) == len(order) == 22
    for one, other in pairwise(order):
        assert (one.layer, one.kind) < (other.layer, other.kind)


def test_no_layers_have_no_levels() -> None:
    assert levels(0, parallel=False) == levels(0, parallel=True) == ()


def test_the_order_of_a_model_comes_from_its_config(lm: LanguageModel, architecture: str) -> None:
    assert lm.paths.levels == levels(lm.paths.n_layers, parallel=architecture == "neox")
    assert lm.paths.modules == tuple(module for level in lm.paths.levels for module in level)
