"""Activations on disk both ways, however little is held at a time."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from scae.analysis.database import Part, blocks, pointers, write_codes
from scae.analysis.streamed import Streamed, write_streamed
from scae.report.analysis_files import CODE, Tables

N, F = 57, 13


@pytest.fixture
def dense() -> Any:
    """Activations with ties, silent tokens and silent features."""
    random = np.random.default_rng(0)
    values = random.integers(1, 5, (N, F)).astype(np.float32) / 4
    values[random.random((N, F)) < 0.7] = 0
    values[:, 4] = 0
    values[:, 7] = 1
    values[10:14] = 0
    return values


def parts(dense: Any, sizes: Iterable[int]) -> list[Part]:
    found, start = [], 0
    for size in sizes:
        rows = dense[start : start + size]
        row, feature = np.nonzero(rows)
        found.append(Part((rows > 0).sum(1).astype(np.int32), feature.astype(np.int32), rows[row, feature]))
        start += size
    return found


@pytest.mark.parametrize("entries", [1, 20, 1000])
@pytest.mark.parametrize("sizes", [(N,), (20, 1, 0, 36)])
def test_both_ways(dense: Any, tmp_path: Path, entries: int, sizes: tuple[int, ...]) -> None:
    """entries=1: a feature at a time."""
    path = tmp_path / "codes" / "0.attn.safetensors"
    write_codes(path, lambda: parts(dense, sizes), n_tokens=N, n_features=F, entries=entries)
    file = Tables(path)
    file.check(CODE, {"n": N, "F": F})
    crow, feature, value = file["crow"], file["feature"], file["value"]
    for token in range(N):
        (active,) = np.nonzero(dense[token])
        mine = slice(crow[token], crow[token + 1])
        assert feature[mine].tolist() == active.tolist()
        assert value[mine].tolist() == dense[token, active].tolist()
    crow, tokens, values = file["feature_crow"], file["token"], file["by_feature"]
    for number in range(F):
        wanted = sorted((-dense[t, number], t) for t in np.flatnonzero(dense[:, number]))
        mine = slice(crow[number], crow[number + 1])
        assert tokens[mine].tolist() == [t for _, t in wanted]
        assert values[mine].tolist() == [-v for v, _ in wanted]


def test_codes_of_fewer_tokens_are_refused(dense: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="codes of 20 tokens, 57 are needed"):
        write_codes(tmp_path / "x.safetensors", lambda: parts(dense, (20,)), n_tokens=N, n_features=F)


def test_no_activations_at_all(tmp_path: Path) -> None:
    path = write_codes(
        tmp_path / "x.safetensors", lambda: parts(np.zeros((5, 3), np.float32), (5,)), n_tokens=5, n_features=3
    )
    file = Tables(path)
    assert file["feature_crow"].tolist() == [0] * 4
    assert file.rows("token", 0, 0).tolist() == file["by_feature"].tolist() == []


@pytest.mark.parametrize("entries", [1, 3, 4, 100])
def test_blocks_cover_all_rows_and_hold_no_more(entries: int) -> None:
    counts = np.array([0, 2, 0, 3, 1, 1, 5, 0])
    crow = pointers(counts)
    found = list(blocks(crow, entries))
    assert [first for first, _ in found] == [0, *(last for _, last in found[:-1])]
    assert found[-1][1] == len(counts)
    assert all(crow[last] - crow[first] <= entries or last == first + 1 for first, last in found)


def test_a_streamed_file_is_safetensors_in_any_order(tmp_path: Path) -> None:
    def fill(file: Streamed) -> None:
        file.put("b", 2, np.array([3, 4]))
        file.put("a", 0, np.arange(3))
        file.put("b", 0, np.array([1, 2]))
        file.put("c", 0, np.array([0.5], dtype=np.float64))
        assert file.get("b", 1, 4).tolist() == [2, 3, 4]
        with pytest.raises(ValueError, match="b has 4 numbers, and none at 3 to 5"):
            file.put("b", 3, np.array([1, 2]))

    path = write_streamed(tmp_path / "x.safetensors", {"b": ("I32", 4), "a": ("I64", 3), "c": ("F32", 1)}, fill)
    with safe_open(path, framework="numpy") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert {name: (values.dtype.name, values.tolist()) for name, values in found.items()} == {
        "a": ("int64", [0, 1, 2]),
        "b": ("int32", [1, 2, 3, 4]),
        "c": ("float32", [0.5]),
    }


def test_a_file_that_is_not_finished_is_not_there(tmp_path: Path) -> None:
    def fill(file: Streamed) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_streamed(tmp_path / "x.safetensors", {"a": ("I32", 1)}, fill)
    assert not list(tmp_path.iterdir())
