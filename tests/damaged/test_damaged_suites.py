"""Damaged suites, and connections that cannot be."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from damage import ANY, Damage, surprise
from experiments import configure
from safetensors.torch import load_file, save_file

from scae.connections import Connections
from scae.suite import Suite
from scae.suite.files import load, save


@dataclass(frozen=True)
class Kept:
    """A stored suite, and the model it was made for."""

    folder: Path
    lm: Any


@pytest.fixture(scope="session")
def kept(
    build_tiny: Callable[[str], SimpleNamespace],
    ragged: Any,
    all_sites: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Kept:
    lm, folder = build_tiny("gpt2").lm, tmp_path_factory.mktemp("suite")
    settings = configure("paths.output=out", "sae=topk", "sae.expansion=null", "sae.features=6", "sae.k=2").sae
    suite = Suite.from_config(settings, all_sites(lm), lm)
    suite.connect(ragged(suite.layout))
    save(suite, folder)
    return Kept(folder, lm)


@pytest.mark.parametrize("damage", ANY)
@pytest.mark.parametrize("name", ["suite.json", "suite.safetensors", "connections.safetensors"])
def test_a_damaged_suite(kept: Kept, tmp_path: Path, name: str, damage: str) -> None:
    folder = shutil.copytree(kept.folder, tmp_path / "copy")
    ANY[damage](folder / name)
    assert surprise(lambda: load(folder, kept.lm), folder / name, str(folder)) is None


SHAPE = {"n_features": 6, "d_in": 16, "d_out": 16, "transcoder": False}
DESCRIBED = {"type": "topk", "k": 2, "shape": SHAPE}
"""What a good suite.json says of a dictionary."""


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 99},
        {"format": None},
        {"format": 4},
        {"dictionaries": {}},
        {"dictionaries": None},
        {"dictionaries": ["0.attn"]},
        {"dictionaries": {"0.attn": {}}},
        {"dictionaries": {"0.attn": None}},
        {"dictionaries": {"7.attn": DESCRIBED}},
        {"dictionaries": {"attn": DESCRIBED}},
        {"dictionaries": {"embed": DESCRIBED}},
        {"dictionaries": {"0.attn": DESCRIBED | {"type": "none"}}},
        {"dictionaries": {"0.attn": DESCRIBED | {"k": "2"}}},
        {"dictionaries": {"0.attn": DESCRIBED | {"later": 1}}},
        {"dictionaries": {"0.attn": DESCRIBED | {"shape": SHAPE | {"d_in": 17}}}},
        {"dictionaries": {"0.attn": DESCRIBED | {"shape": SHAPE | {"n_features": -1}}}},
        {"dictionaries": {"0.attn": DESCRIBED | {"shape": SHAPE | {"n_features": "6"}}}},
        {"dictionaries": {"0.attn": DESCRIBED | {"shape": None}}},
        {"ends": ["embed"]},
        {"ends": ["unembed"]},
        {"ends": ["0.attn"]},
        {"ends": ["attn"]},
        {"ends": None},
        {"threshold_pass": "none"},
        {"threshold_pass": 3},
    ],
    ids=str,
)
def test_a_suite_that_says_something_else(kept: Kept, tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = shutil.copytree(kept.folder, tmp_path / "copy")
    note = json.loads((folder / "suite.json").read_text())
    (folder / "suite.json").write_text(json.dumps(note | changes))
    assert surprise(lambda: load(folder, kept.lm), folder / "suite.json", str(folder)) is None


def rewrite(change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Damage:
    """Change the tensors and the layout of a connections file."""

    def damage(file: Path) -> None:
        from safetensors import safe_open

        tensors = load_file(file)
        with safe_open(file, framework="pt") as opened:
            layout = json.loads(opened.metadata()["scae.connections"])
        change(tensors, layout)
        save_file(tensors, file, metadata={"scae.connections": json.dumps(layout)})

    return damage


def in_all(change: Callable[[str, Any], Any]) -> Damage:
    return rewrite(lambda tensors, _: tensors.update({name: change(name, value) for name, value in tensors.items()}))


EDGES: dict[str, Damage] = {
    "beyond": in_all(lambda name, value: value + 1000 if name.endswith("up") else value),
    "negative": in_all(lambda name, value: value - 1 if name.endswith("up") else value),
    "backwards": in_all(lambda name, value: value.flip(0).contiguous() if name.endswith("up") else value),
    "twice": in_all(lambda name, value: value * 0 if name.endswith("up") else value),
    "falling": in_all(lambda name, value: value.flip(0).contiguous() if name.endswith("crow") else value),
    "nan": in_all(lambda _, value: value.float() * float("nan")),
    "floats": in_all(lambda _, value: value.float()),
    "bytes": in_all(lambda _, value: value.to(torch.uint8)),
    "long": in_all(lambda _, value: value.long()),
    "booleans": in_all(lambda _, value: value.bool()),
    "matrices": in_all(lambda _, value: value[None]),
    "scalars": in_all(lambda _, value: value.sum()),
    "nothing": in_all(lambda _, value: value[:0].clone()),
    "one site less": rewrite(lambda tensors, _: tensors.pop("0.mlp.up")),
    "another order": rewrite(lambda _, layout: layout["sites"].reverse()),
    "other sizes": rewrite(lambda _, layout: layout.update(sizes=[size + 1 for size in layout["sizes"]])),
    "sizes as text": rewrite(lambda _, layout: layout.update(sizes=[str(size) for size in layout["sizes"]])),
    "no sizes": rewrite(lambda _, layout: layout.pop("sizes")),
    "no sites": rewrite(lambda _, layout: layout.update(sites=[], sizes=[], reads=[])),
    "parallel": rewrite(lambda _, layout: layout.update(reads=[0, 0, 2, 2])),
    "reads beyond": rewrite(lambda _, layout: layout.update(reads=[count + 1 for count in layout["reads"]])),
    "reads as text": rewrite(lambda _, layout: layout.update(reads=[str(count) for count in layout["reads"]])),
    "no reads": rewrite(lambda _, layout: layout.pop("reads")),
    "another format": rewrite(lambda _, layout: layout.update(format=1)),
    "no format": rewrite(lambda _, layout: layout.pop("format")),
    "complete": rewrite(lambda _, layout: layout.update(complete=True)),
}


@pytest.mark.parametrize("damage", EDGES)
def test_connections_that_cannot_be(kept: Kept, tmp_path: Path, damage: str) -> None:
    folder = shutil.copytree(kept.folder, tmp_path / "copy")
    file = folder / "connections.safetensors"
    EDGES[damage](file)
    assert surprise(lambda: load(folder, kept.lm), file) is None


@pytest.mark.parametrize(
    "damage",
    ["another order", "parallel", "reads beyond", "reads as text", "no reads", "another format", "no format"],
)
def test_connections_of_another_layout_are_refused(kept: Kept, tmp_path: Path, damage: str) -> None:
    folder = shutil.copytree(kept.folder, tmp_path / "copy")
    EDGES[damage](folder / "connections.safetensors")
    with pytest.raises(ValueError, match=r"connections\.safetensors (is no connections file|does not fit)"):
        load(folder, kept.lm)


@pytest.mark.parametrize("damage", ["floats", "bytes", "booleans", "long", "matrices"])
def test_connections_are_vectors_of_int32(kept: Kept, tmp_path: Path, damage: str) -> None:
    file = Path(shutil.copy(kept.folder / "connections.safetensors", tmp_path))
    EDGES[damage](file)
    with pytest.raises(ValueError, match="needed: a vector of int32"):
        Connections.load(file)
