"""The edge list of a suite: its order, what is refused and in which words, and its file."""

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from scae.connections import Connections, Inputs, Layout
from scae.lm.modules import levels
from scae.sites import Site

SITES = tuple(map(Site.parse, ("0.attn", "0.mlp", "1.attn", "1.mlp")))
SEQUENTIAL = Layout(SITES, (3, 5, 2, 4), reads=(0, 1, 2, 3))
PARALLEL = Layout(SITES, (3, 5, 2, 4), reads=(0, 0, 2, 2))
MLP = SITES[1]  # 5 features that read, in the sequential layout, from the 3 of 0.attn


def inputs(crow: list[int], up: list[int]) -> Inputs:
    return Inputs(torch.tensor(crow, dtype=torch.int32), torch.tensor(up, dtype=torch.int32))


def random_connections(layout: Layout, density: float, seed: int) -> Connections:
    generator = torch.Generator().manual_seed(seed)
    chosen = {}
    for site in layout.sites:
        kept = torch.rand(layout.size(site), layout.n_upstream(site), generator=generator) < density
        chosen[site] = Inputs.from_pairs(*kept.nonzero(as_tuple=True), layout.size(site))
    return Connections(layout, chosen)


# layout


def test_layout_numbers_features_on_from_site_to_site() -> None:
    assert [SEQUENTIAL.offset(site) for site in SITES] == [0, 3, 8, 10]
    assert [SEQUENTIAL.size(site) for site in SITES] == [3, 5, 2, 4]
    assert [SEQUENTIAL.n_upstream(site) for site in SITES] == [0, 3, 8, 10]
    assert [PARALLEL.n_upstream(site) for site in SITES] == [0, 0, 8, 8]
    assert SEQUENTIAL.upstream(SITES[3]) == SITES[:3]
    assert PARALLEL.upstream(SITES[3]) == PARALLEL.upstream(SITES[2]) == SITES[:2]


@pytest.mark.parametrize("layout", [SEQUENTIAL, PARALLEL], ids=["sequential", "parallel"])
def test_locate_undoes_the_numbering(layout: Layout) -> None:
    numbered = [(site, feature) for site in SITES for feature in range(layout.size(site))]
    assert [layout.locate(number) for number in range(len(numbered))] == numbered
    with pytest.raises(ValueError, match="feature 14 of a suite of 14 features"):
        layout.locate(14)


def test_upstream_features_are_the_first_ones_also_where_sites_are_missing() -> None:
    layout = Layout.of({SITES[1]: 5, SITES[3]: 4}, levels(2, parallel=True))
    assert (layout.upstream(SITES[3]), layout.n_upstream(SITES[3]), layout.offset(SITES[3])) == ((SITES[1],), 5, 5)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)], ids=str)
def test_a_layout_is_in_the_order_of_the_model(order: tuple[int, ...]) -> None:
    sizes = {SITES[number]: SEQUENTIAL.sizes[number] for number in order}
    assert Layout.of(sizes, levels(2, parallel=False)) == SEQUENTIAL
    assert Layout.of(sizes, levels(2, parallel=True)) == PARALLEL


@pytest.mark.parametrize(
    ("sites", "sizes", "reads", "message"),
    [
        ((MLP, MLP), (1, 1), (0, 1), r"sites must be unique, got 0\.mlp, 0\.mlp"),
        (SITES, (1, 1, 1), (0, 1, 2, 3), "as many sizes and reads as sites"),
        (SITES, (1, 1, 1, 1), (0, 1, 2), "as many sizes and reads as sites"),
        (SITES, (1, 1, 1, 1), (0, 1, 3, 3), r"reads from sites before it alone, got reads=\(0, 1, 3, 3\)"),
        (SITES, (1, 1, 1, 1), (0, -1, 2, 3), "reads from sites before it alone"),
    ],
    ids=["twice", "few-sizes", "few-reads", "itself", "negative"],
)
def test_a_layout_that_cannot_be_is_refused(
    sites: tuple[Site, ...], sizes: tuple[int, ...], reads: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Layout(sites, sizes, reads)


# edge lists


def test_from_pairs_sorts_by_downstream_then_upstream() -> None:
    down, up = torch.tensor([3, 0, 3, 0, 2]), torch.tensor([1, 9, 0, 4, 7])
    found = Inputs.from_pairs(down, up, 5)
    assert found.crow.tolist() == [0, 2, 2, 3, 5, 5]
    assert found.up.tolist() == [4, 9, 7, 0, 1]
    assert found.down.tolist() == [0, 0, 2, 3, 3]
    assert (found.crow.dtype, found.up.dtype, len(found)) == (torch.int32, torch.int32, 5)


def test_from_pairs_of_no_pairs() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    found = Inputs.from_pairs(nothing, nothing, 3)
    assert (found.crow.tolist(), found.up.tolist(), found.down.tolist()) == ([0, 0, 0, 0], [], [])


def test_from_pairs_of_narrow_integers_does_not_overflow() -> None:
    down, up = torch.tensor([60_000, 0], dtype=torch.int32), torch.tensor([50_000, 1], dtype=torch.int32)
    assert Inputs.from_pairs(down, up, 60_001).up.tolist() == [1, 50_000]


@settings(deadline=None, max_examples=100)
@given(st.sets(st.tuples(st.integers(0, 5), st.integers(0, 8))), st.randoms())
def test_from_pairs_keeps_every_pair(pairs: set[tuple[int, int]], random: object) -> None:
    shuffled = sorted(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    down, up = torch.tensor(shuffled, dtype=torch.int64).reshape(-1, 2).T
    found = Inputs.from_pairs(down, up, 6)
    assert list(zip(found.down.tolist(), found.up.tolist(), strict=True)) == sorted(pairs)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (inputs([0, 1, 1, 1, 1, 1], [3]), r"upstream features must lie in 0\.\.2, .*\(0\.attn\); got 3\.\.3"),
        (inputs([0, 1, 1, 1, 1, 1], [-1]), r"upstream features must lie in 0\.\.2, .*; got -1\.\.-1"),
        (inputs([0, 2, 2, 2, 2, 2], [1, 0]), "the inputs of a feature must be sorted and unique"),
        (inputs([0, 0, 0, 0, 0, 2], [1, 1]), "the inputs of a feature must be sorted and unique"),
        (inputs([0, 1, 1, 1, 1], [0]), "in 5 rows, got 4 rows"),
        (inputs([0, 1, 1, 1, 1, 1, 1], [0]), "in 5 rows, got 6 rows"),
        (inputs([0, 1, 1, 1, 1, 2], [0]), "to the 1 edges in 5 rows, got 5 rows ending at 2"),
        (inputs([1, 1, 1, 1, 1, 1], [0]), "row pointers must rise from 0"),
        (inputs([0, 2, 1, 1, 1, 2], [0, 1]), "row pointers must rise"),
        (inputs([0], []), "in 5 rows, got 0 rows"),
    ],
    ids=["range", "negative", "order", "duplicate", "few-rows", "many-rows", "end", "start", "falling", "no-rows"],
)
def test_wrong_edge_lists_are_refused(wrong: Inputs, message: str) -> None:
    with pytest.raises(ValueError, match=rf"connections into 0\.mlp: .*{message}"):
        Connections(SEQUENTIAL, {MLP: wrong})


def test_inputs_of_one_feature_may_repeat_in_the_next() -> None:
    assert len(Connections(SEQUENTIAL, {MLP: inputs([0, 2, 4, 4, 4, 4], [1, 2, 0, 1])})) == 4


def test_causality_is_that_of_the_architecture() -> None:
    """0.attn -> 0.mlp exists where attention comes first, and not where they are parallel."""
    edge = {MLP: inputs([0, 1, 1, 1, 1, 1], [0])}
    assert len(Connections(SEQUENTIAL, edge)) == 1
    with pytest.raises(ValueError, match=r"connections into 0\.mlp: upstream features .*\(none\)"):
        Connections(PARALLEL, edge)
    later = {SITES[2]: inputs([0, 1, 1], [8])}  # 8 is the first of 1.attn itself
    with pytest.raises(ValueError, match=r"connections into 1\.attn: upstream features must lie in 0\.\.7"):
        Connections(SEQUENTIAL, later)


def test_connections_into_no_site_of_the_suite() -> None:
    with pytest.raises(ValueError, match=r"connections into 7\.attn, which is no site of the suite"):
        Connections(SEQUENTIAL, {Site(7, "attn"): inputs([0], [])})


@pytest.mark.parametrize("layout", [SEQUENTIAL, PARALLEL], ids=["sequential", "parallel"])
def test_complete_and_none_are_the_two_ends(layout: Layout) -> None:
    complete, none = Connections.complete(layout), Connections.none(layout)
    assert complete.is_complete
    assert not none.is_complete
    assert (len(none), len(complete)) == (0, sum(layout.size(s) * layout.n_upstream(s) for s in SITES))
    for site in SITES:
        pairs = [(i, j) for i in range(layout.size(site)) for j in range(layout.n_upstream(site))]
        assert list(zip(complete[site].down.tolist(), complete[site].up.tolist(), strict=True)) == pairs
        assert (none[site].crow.tolist(), none[site].up.tolist()) == ([0] * (layout.size(site) + 1), [])
    Connections(layout, {site: complete[site] for site in SITES})  # what it lists is valid


def test_equality() -> None:
    one = random_connections(SEQUENTIAL, 0.5, 0)
    assert one == random_connections(SEQUENTIAL, 0.5, 0)
    assert one != random_connections(SEQUENTIAL, 0.5, 1)
    assert one != Connections.complete(SEQUENTIAL)
    assert Connections.none(SEQUENTIAL) == Connections(SEQUENTIAL, {MLP: inputs([0] * 6, [])})
    assert Connections.none(SEQUENTIAL) != Connections.none(PARALLEL)
    assert Connections.complete(SEQUENTIAL) == Connections.complete(SEQUENTIAL)


# files


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=4, max_size=4).map(tuple),
    parallel=st.booleans(),
    density=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_what_is_saved_is_what_is_loaded(sizes: tuple[int, ...], parallel: bool, density: float, seed: int) -> None:
    layout = Layout.of(dict(zip(SITES, sizes, strict=True)), levels(2, parallel=parallel))
    saved = random_connections(layout, density, seed)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "connections.safetensors"
        saved.save(path)
        loaded = Connections.load(path)
        assert [file.name for file in Path(folder).iterdir()] == [path.name]
    assert loaded == saved
    assert (loaded.layout, len(loaded)) == (saved.layout, len(saved))


def test_complete_connections_are_saved_as_such(tmp_path: Path) -> None:
    path = tmp_path / "all.safetensors"
    Connections.complete(replace(SEQUENTIAL, sizes=(10_000,) * 4)).save(path)
    assert path.stat().st_size < 1000
    assert Connections.load(path).is_complete


def test_loading_validates(tmp_path: Path) -> None:
    path = tmp_path / "swapped.safetensors"
    random_connections(SEQUENTIAL, 1.0, 0).save(path)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        meta, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    tensors["1.attn.up"] = tensors["1.attn.up"].flip(0).contiguous()
    save_file(tensors, path, metadata=meta)
    with pytest.raises(ValueError, match=r"swapped\.safetensors is no connections file .*into 1\.attn: .*sorted"):
        Connections.load(path)
    del tensors["1.attn.up"]
    save_file(tensors, path, metadata=meta)
    with pytest.raises(ValueError, match=r"swapped\.safetensors is no connections file .*1\.attn\.up"):
        Connections.load(path)


def test_a_file_of_another_format_says_so(tmp_path: Path) -> None:
    path = tmp_path / "older.safetensors"
    layout = {"sites": list(map(str, SITES)), "sizes": [3, 5, 2, 4], "parallel": False, "complete": True}
    for format, found in (({}, 1), ({"format": 99}, 99)):
        metadata = {"scae.connections": json.dumps(layout | format)}
        save_file({"nothing": torch.zeros(1)}, path, metadata=metadata)
        with pytest.raises(ValueError, match=rf"older\.safetensors .*: format {found}, this version reads 2"):
            Connections.load(path)


@pytest.mark.parametrize("content", [b"", b"no safetensors at all", None], ids=["empty", "text", "cut"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "damaged.safetensors"
    random_connections(SEQUENTIAL, 0.5, 0).save(path)
    path.write_bytes(path.read_bytes()[:-9] if content is None else content)
    with pytest.raises(ValueError, match=r"damaged\.safetensors is no connections file of scae"):
        Connections.load(path)


def test_a_missing_file_and_anothers_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent\.safetensors"):
        Connections.load(tmp_path / "absent.safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"weights\.safetensors is no connections file of scae"):
        Connections.load(tmp_path / "weights.safetensors")
