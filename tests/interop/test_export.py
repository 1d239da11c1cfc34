"""The command that writes the files of other libraries, and what is found at a path, without torch."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scae.config import ConfigError
from scae.interop.__main__ import main
from scae.interop.found import find
from scae.lm import LanguageModel
from scae.suite import Suite
from scae.suite.files import save

Make = Callable[..., Any]


@pytest.fixture
def run(build_tiny: Make, make_suite: Make, tmp_path: Path) -> Path:
    """A run directory, with what its stages have made beside it."""
    lm: LanguageModel = build_tiny("gpt2").lm
    for number, stage in enumerate(("pretrain", "finetune")):
        folder = tmp_path / "artifacts" / f"{stage}-1"
        folder.mkdir(parents=True)
        suite: Suite = make_suite(lm, seed=number)
        save(suite, folder)
        made_from = {"data": {"context": 64}} if stage == "pretrain" else {}
        note = {"made_from": made_from, "upstream": [] if stage == "pretrain" else ["pretrain-1"]}
        (folder / "artifact.json").write_text(json.dumps(note))
    (tmp_path / "run").mkdir()
    stages = {stage: f"../artifacts/{stage}-1" for stage in ("pretrain", "finetune")}
    model = {"name": "org/model", "revision": None, "dtype": "float32", "prepend_bos": "auto"}
    (tmp_path / "run" / "run.json").write_text(json.dumps({"stages": stages, "model": model}))
    return tmp_path / "run"


def exported(*arguments: str | Path) -> int:
    return main(["export", *map(str, arguments)])


def test_one_site_or_all_of_them(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert exported(run, "--format", "saelens", "--site", "0.mlp", "--out", tmp_path / "one") == 0
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["cfg.json", "sae_weights.safetensors"]
    assert caplog.text.count("no other format has ceilings of activations (sae.bound), they are left out: 0.mlp") == 1
    assert exported(run, "--format", "sparsify", "--out", tmp_path / "all") == 0
    names = sorted(path.name for path in (tmp_path / "all").iterdir())
    assert names == ["0.attn", "0.mlp", "1.attn", "1.mlp"]
    assert find(tmp_path / "all").folders.keys() == set(names)


def test_the_card_says_where_a_dictionary_stands(run: Path, tmp_path: Path) -> None:
    exported(run, "--format", "saelens", "--out", tmp_path / "out")
    cards = {
        site: json.loads((tmp_path / "out" / site / "cfg.json").read_text())["metadata"]
        for site in ("1.attn", "1.mlp")
    }  # fmt: skip
    assert cards["1.attn"]["hook_name"] == "blocks.1.hook_attn_out"
    assert "hook_name_out" not in cards["1.attn"]
    assert cards["1.mlp"]["hook_name"] == "blocks.1.ln2.hook_normalized"
    assert cards["1.mlp"]["hook_name_out"] == "blocks.1.hook_mlp_out"
    for card in cards.values():
        assert (card["model_name"], card["context_size"], card["prepend_bos"]) == ("org/model", 64, True)


def test_of_a_run_the_last_suite_is_written_unless_a_stage_is_named(run: Path, tmp_path: Path) -> None:
    def weights(*arguments: str | Path) -> bytes:
        assert exported(*arguments, "--format", "saelens", "--site", "0.attn", "--out", tmp_path / "out") == 0
        return (tmp_path / "out" / "sae_weights.safetensors").read_bytes()

    artifacts = run.parent / "artifacts"
    assert weights(run) == weights(artifacts / "finetune-1") == weights(run, "--stage", "finetune")
    assert weights(run, "--stage", "pretrain") == weights(artifacts / "pretrain-1") != weights(run)


@pytest.mark.parametrize(
    ("source", "more", "told"),
    [
        ("nowhere", [], "no such file or folder"),
        ("run", ["--site", "7.mlp"], "has no 7.mlp; it has 0.attn, 0.mlp, 1.attn, 1.mlp"),
        ("run", ["--site", "0.mpl"], "'0.mpl' is no site"),
        ("artifacts", [], "no dictionary there"),
    ],
)
def test_mistakes_are_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, more: list[str], told: str
) -> None:
    assert exported(tmp_path / source, *more, "--format", "saelens", "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.strip().splitlines()) == 1


def test_what_a_run_has_made_may_be_gone(run: Path) -> None:
    note = json.loads((run / "run.json").read_text())
    note["stages"] = {"select": "../artifacts/select-1", "pretrain": "../artifacts/pretrain-9"}
    (run / "run.json").write_text(json.dumps(note))
    with pytest.raises(ConfigError, match="has made no finetune; it has select, pretrain"):
        find(run, stages=("finetune",))
    with pytest.raises(ConfigError, match=r"what it has made is gone: there is no .*pretrain-9"):
        find(run)


def test_what_is_found_is_known_by_its_content(run: Path, tmp_path: Path) -> None:
    found = find(run)
    before = found.fingerprint
    (tmp_path / "artifacts" / "pretrain-1" / "artifact.json").write_text("{}")
    assert find(run).fingerprint == before, "what lies beside is not read"
    (tmp_path / "artifacts").rename(tmp_path / "moved")
    assert find(tmp_path / "moved" / "pretrain-1").fingerprint == before
    exported(tmp_path / "moved" / "pretrain-1", "--format", "saelens", "--out", tmp_path / "out")
    files = find(tmp_path / "out").fingerprint
    (tmp_path / "out" / "1.mlp" / "notes.txt").touch()
    assert find(tmp_path / "out").fingerprint == files != before
    (tmp_path / "out" / "1.mlp").rename(tmp_path / "out" / "2.mlp")
    assert find(tmp_path / "out").fingerprint != files
    (tmp_path / "moved" / "pretrain-1" / "suite.safetensors").write_bytes(b"")
    assert find(tmp_path / "moved" / "pretrain-1").fingerprint != before


def test_looking_needs_no_torch() -> None:
    code = "import sys; import scae.interop.found, scae.interop.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
