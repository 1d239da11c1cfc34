"""The layers of the house (DESIGN.md, section 5): a module imports only from a lower layer or its own folder."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = (
    ("config",),
    ("core", "arms"),
    ("kernels", "artifacts"),
    ("lm",),
    ("dictionaries", "sites"),
    ("connections",),
    ("suite",),
    ("selection", "objectives", "data"),
    ("activations",),
    ("training", "evaluation", "attribution", "report", "interop"),
    ("analysis",),
    ("experiment",),
    ("command", "circuit", "label"),
    ("__init__", "__main__"),  # the package's own face may show anything
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
FILES = sorted((ROOT / "scae").rglob("*.py"))


def home(path: Path) -> str:
    """The part of the house that a file belongs to: a folder of scae, or a module beside them."""
    return path.relative_to(ROOT / "scae").parts[0].removesuffix(".py")


def imported(path: Path) -> list[tuple[int, str]]:
    """(line, dotted name) of everything that a file imports, wherever in the file it does so."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            folders = path.relative_to(ROOT).parent.parts
            package = folders[: len(folders) - node.level + 1] if node.level else ()
            base = ".".join([*package, *filter(None, [node.module])])
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def target(dotted: str) -> str | None:
    """The part of the house that an import reaches into; None: it leaves the house."""
    top, *rest = dotted.split(".")
    if top != "scae":
        return None
    exists = rest and ((ROOT / "scae" / rest[0]).is_dir() or (ROOT / "scae" / f"{rest[0]}.py").is_file())
    return rest[0] if exists else "__init__"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_below(path: Path) -> None:
    here = home(path)
    assert here in LAYER, f"scae/{here} has no layer yet: name it in DESIGN.md, section 5, and here"
    beside = path.parent == ROOT / "scae"
    for line, dotted in imported(path):
        there = target(dotted)
        if there is None or there == here:
            continue
        assert there in LAYER, f"{path}:{line} imports {dotted}, which has no layer"
        same_folder = beside and (ROOT / "scae" / f"{there}.py").is_file() and LAYER[there] == LAYER[here]
        assert LAYER[there] < LAYER[here] or same_folder, (
            f"{path.relative_to(ROOT)}:{line} is of layer {LAYER[here]} and imports {dotted} of layer {LAYER[there]}"
        )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_lm_knows_transformer_lens(path: Path) -> None:
    if home(path) != "lm":
        assert not [dotted for _, dotted in imported(path) if dotted.split(".")[0] == "transformer_lens"]


def test_the_test_sees_imports_of_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_imports.ROOT", tmp_path)
    path = tmp_path / "scae" / "lm" / "model.py"
    path.parent.mkdir(parents=True)
    (tmp_path / "scae" / "sites.py").touch()
    (tmp_path / "scae" / "suite").mkdir()
    path.write_text(
        "import torch\nimport scae.suite.passes as p\nfrom scae import sites\nfrom scae import Suite\n"
        "from . import trace\nfrom ..suite import Suite\ndef f():\n    from scae.suite import Suite\n"
    )
    found = [target(dotted) for _, dotted in sorted(imported(path))]
    assert found == [None, "suite", "sites", "__init__", "lm", "suite", "suite"]
