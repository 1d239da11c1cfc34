"""The reader of an analysis: both look-ups without torch, and one clear error for what is damaged or foreign."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from scae.report.analysis_files import Active, Analysis, AnalysisError, Edge

ROOT = Path(__file__).parents[2]
N, F, P = 6, 3, 2


def features() -> dict[str, Any]:
    per_pass = (P, F)
    tensors = {name: np.arange(P * F, dtype=np.float32).reshape(per_pass) for name in ("rate", "mean", "max")}
    tensors |= {"histogram": np.ones((*per_pass, 20), np.int32), "top": np.full((*per_pass, 2), -1, np.int32)}
    tensors |= {"top_value": np.zeros((*per_pass, 2), np.float32), "state": np.array([0, 1, 2], np.int8)}
    tensors |= {"quantile": np.zeros((*per_pass, 4, 4), np.int32)}
    tensors |= {"quantile_value": np.zeros((*per_pass, 4, 4), np.float32)}
    for name in ("promoted", "suppressed"):
        tensors |= {name: np.zeros((F, 10), np.int32), f"{name}_value": np.zeros((F, 10), np.float32)}
    tensors |= {name: np.array([0.5, 0.25, 1], np.float32) for name in ("agreement", "jaccard")}
    tensors |= {f"inputs_{name}": np.array([0.5, 0.25, 1], np.float32) for name in ("constant", "total")}
    for side in ("inputs", "outputs"):
        tensors |= {f"{side}_crow": np.array([0, 0, 2, 2]), f"{side}_site": np.array([0, 1], np.int16)}
        tensors |= {f"{side}_feature": np.array([7, 1], np.int32), f"{side}_weight": np.array([2, -1], np.float32)}
        tensors |= {f"{side}_mean": np.array([0.75, np.nan], np.float32)}
    return tensors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two windows of three tokens; one site, and the embedding as a site."""
    for mode in ("plain", "pruned"):
        (tmp_path / "codes" / mode).mkdir(parents=True)
        scale = 1 if mode == "plain" else 10
        tensors = {
            "crow": np.array([0, 1, 1, 3, 3, 4, 4]),
            "feature": np.array([0, 0, 2, 0], np.int32),
            "value": scale * np.array([1, 2, 5, 3], np.float32),
            "feature_crow": np.array([0, 3, 3, 4]),
            "token": np.array([4, 2, 0, 2], np.int32),
            "by_feature": scale * np.array([3, 2, 1, 5], np.float32),
        }
        save_file(tensors, tmp_path / "codes" / mode / "0.attn.safetensors")
    (tmp_path / "features").mkdir()
    save_file(features(), tmp_path / "features" / "0.attn.safetensors")
    ids = {name: np.arange(N, dtype=np.int32) for name in ("id", "document", "position", "window")}
    save_file(ids | {"live": np.array([False, True, True] * 2)}, tmp_path / "tokens.safetensors")
    (tmp_path / "vocabulary.json").write_text(json.dumps(["<bos>", " a", "<script>", "d", "\\xff", "\n"]))
    sites = [{"site": "embed", "features": 6}, {"site": "0.attn", "features": F}]
    note = {"format": 1, "passes": ["plain", "pruned"], "n_tokens": N, "n_live": 4, "context": 3, "sites": sites}
    (tmp_path / "analysis.json").write_text(json.dumps(note))
    return tmp_path


def test_from_a_feature_to_its_tokens(folder: Path) -> None:
    analysis = Analysis(folder)
    assert list(analysis.tokens_of("0.attn", 0)) == [(4, 30.0), (2, 20.0), (0, 10.0)]
    assert list(analysis.tokens_of("0.attn", 0, "plain", count=2)) == [(4, 3.0), (2, 2.0)]
    assert list(analysis.tokens_of("0.attn", 1)) == []
    assert list(analysis.tokens_of("0.attn", 2)) == [(2, 50.0)]
    context = analysis.context(4, before=9, after=1)
    assert (context.texts, context.at, context.live) == (("d", "\\xff", "\n"), 1, (False, True, True))
    assert str(context) == "d«\\xff»\n"
    assert str(analysis.context(0, before=1, after=1)) == "«<bos>» a"


def test_from_a_token_to_its_features(folder: Path) -> None:
    analysis = Analysis(folder)
    both = [Active("0.attn", 2, 5.0), Active("0.attn", 0, 2.0)]
    assert analysis.features_at(2, mode="plain") == both
    assert analysis.features_at(2, 2.0, "plain") == both[:1]
    assert analysis.features_at(2, 5.0, "plain") == analysis.features_at(1) == []


def test_one_feature(folder: Path) -> None:
    analysis = Analysis(folder)
    assert (analysis.site_names, analysis.sites) == (("embed", "0.attn"), ("0.attn",))
    feature = analysis.feature("0.attn", 1)
    assert feature["rate"].tolist() == [1.0, 4.0]
    assert feature["histogram"].shape == (2, 20)
    assert (feature["state"], feature["agreement"]) == (1, 0.25)
    assert feature.inputs is not None
    assert feature.inputs[0] == Edge("embed", 7, 2.0, 0.75)
    assert np.isnan(feature.inputs[1].mean)
    assert analysis.feature("0.attn", 2).outputs == ()
    assert "inputs_weight" not in feature.rows


def test_the_reader_needs_no_torch(folder: Path) -> None:
    script = (
        "import sys; from scae.report.analysis_files import Analysis\n"
        f"a = Analysis({str(folder)!r}); a.feature('0.attn', 0); a.features_at(2); a.context(1)\n"
        "heavy = {'torch', 'lightning', 'transformers', 'numba'} & set(sys.modules); assert not heavy, heavy"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def rewritten(path: Path, **changes: Any) -> None:
    tensors = load_file(path) | changes
    save_file({name: value for name, value in tensors.items() if value is not None}, path)


CODES, FEATURES = "codes/plain/0.attn.safetensors", "features/0.attn.safetensors"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda f: (f / "analysis.json").unlink(), r"analysis\.json is missing: no analysis, or a damaged one"),
        (lambda f: (f / "analysis.json").write_text("{"), r"analysis\.json is not valid JSON"),
        (lambda f: (f / "analysis.json").write_text("[]"), r"analysis\.json holds a list, expected an object"),
        (lambda f: (f / "analysis.json").write_text('{"format": 2}'), r"format 2, this version reads 1"),
        (lambda f: (f / "analysis.json").write_text('{"format": 1}'), r"analysis\.json is damaged \(KeyError"),
        (lambda f: (f / CODES).unlink(), r"0\.attn\.safetensors is missing"),
        (lambda f: (f / CODES).write_bytes((f / CODES).read_bytes()[:-4]), r"cannot be read as safetensors"),
        (lambda f: (f / CODES).write_bytes(b"no"), r"cannot be read as safetensors"),
        (lambda f: rewritten(f / CODES, token=None), r"plain/0\.attn\.safetensors holds no token; it holds by_feature"),
        (
            lambda f: rewritten(f / CODES, value=np.ones(4)),
            r"value is F64 of shape \[4\]; needed: F32 of \[p\] with {'p': 4}",
        ),
        (lambda f: rewritten(f / CODES, crow=np.arange(5)), r"crow is I64 of shape \[5\]; needed: I64 of \[n\+1\]"),
        (lambda f: rewritten(f / FEATURES, jaccard=None), r"holds no jaccard"),
        (lambda f: rewritten(f / FEATURES, rate=np.ones((1, F), np.float32)), r"rate is F32 of shape \[1, 3\]; needed"),
        (lambda f: rewritten(f / FEATURES, inputs_mean=np.ones(3, np.float32)), r"inputs_mean is F32 of shape \[3\]"),
        (lambda f: (f / "vocabulary.json").write_text("[1]"), r"vocabulary\.json holds no list of texts"),
        (lambda f: (f / "vocabulary.json").write_text('["a"]'), r"vocabulary\.json has 1 texts, and none of 1"),
        (lambda f: rewritten(f / "tokens.safetensors", live=None), r"tokens\.safetensors holds no live"),
    ],
)
def test_what_is_damaged_is_named(folder: Path, damage: Callable[[Path], Any], told: str) -> None:
    damage(folder)
    with pytest.raises(AnalysisError, match=told):
        read_all(folder)


def read_all(folder: Path) -> None:
    analysis = Analysis(folder)
    analysis.tokens_of("0.attn", 0, "plain")
    analysis.features_at(2, mode="plain")
    analysis.feature("0.attn", 1)
    analysis.context(1)


@pytest.mark.parametrize(
    ("ask", "error", "told"),
    [
        (lambda a: a.feature("1.mlp", 0), AnalysisError, r"1\.mlp: no site of .*; there are embed, 0\.attn"),
        (lambda a: a.feature("0.attn", 3), IndexError, r"feature 3 of 0\.attn, which has features 0\.\.2"),
        (lambda a: a.tokens_of("0.attn", -1), IndexError, r"feature -1 of 0\.attn"),
        (lambda a: a.features_at(6), IndexError, r"token 6 of .*, which has tokens 0\.\.5"),
        (lambda a: a.context(-1), IndexError, r"token -1 of"),
        (lambda a: a.tokens_of("0.attn", 0, "dense"), AnalysisError, r"dense: no pass of .*; there are plain, pruned"),
        (lambda a: a.codes("embed"), AnalysisError, r"embed has no stored activations"),
    ],
)
def test_what_is_not_there_is_said(folder: Path, ask: Callable[[Analysis], Any], error: Any, told: str) -> None:
    with pytest.raises(error, match=told):
        ask(Analysis(folder))
