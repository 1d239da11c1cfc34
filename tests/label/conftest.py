"""A made-up analysis of a made-up text, with features that everybody understands.

The text: 40 windows of 24 tokens, the first a BOS, of the words of WORDS. Features of 0.mlp: 0 fires at "cat", 1 at
"dog" in the plain pass alone, 2 never, 3 at every token, 4 at markup. 10.attn has one that fires at "cat": the order of
sites is not the alphabet's.
"""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from stand_in import StandIn

WINDOWS, CONTEXT, EXAMPLES, BANDS, DRAWN, BINS, LOGITS = 40, 24, 16, 4, 4, 20, 10
WORDS = ["<bos>", " the", " cat", " dog", " sat", " on", " a", " mat", "</script>\n"]
CAT, DOG, MARKUP = 2, 3, 8
ALWAYS, NEVER = -1, -2
SITES: dict[str, list[tuple[int, int]]] = {  # the word that a feature fires at, in either pass
    "0.mlp": [(CAT, CAT), (DOG, NEVER), (NEVER, NEVER), (ALWAYS, ALWAYS), (MARKUP, MARKUP)],
    "10.attn": [(CAT, CAT)],
}
PASSES = ("plain", "pruned")


def _text(rng: np.random.Generator) -> np.ndarray:
    """[n] word of every token; "cat" in half of the windows, "dog" in others, the markup in 3 windows."""
    ids = rng.choice([1, 4, 5, 6, 7], (WINDOWS, CONTEXT))
    ids[:, 0] = 0
    for window in range(WINDOWS):
        places = rng.permutation(np.arange(1, CONTEXT))[:2]
        if window % 2 == 0:
            ids[window, places] = CAT
        elif window % 4 == 1:
            ids[window, places[0]] = DOG
        elif window < 12:
            ids[window, places[0]] = MARKUP
    return ids.reshape(-1)


def _activations(ids: np.ndarray, word: int, rng: np.random.Generator) -> np.ndarray:
    """[n]"""
    values = rng.uniform(1.0, 2.0, len(ids)).astype(np.float32)
    fires = (ids != 0) if word == ALWAYS else ids == word
    return np.where(fires, values, 0).astype(np.float32)


def _codes(dense: np.ndarray) -> dict[str, np.ndarray]:
    """dense [n, F]"""
    token, feature = np.nonzero(dense)
    rows = [np.flatnonzero(column)[np.argsort(-column[column > 0], kind="stable")] for column in dense.T]
    return {
        "crow": np.concatenate([[0], np.cumsum((dense > 0).sum(1))]).astype(np.int64),
        "feature": feature.astype(np.int32),
        "value": dense[token, feature],
        "feature_crow": np.concatenate([[0], np.cumsum((dense > 0).sum(0))]).astype(np.int64),
        "token": np.concatenate(rows).astype(np.int32),
        "by_feature": np.concatenate([column[row] for row, column in zip(rows, dense.T, strict=True)]),
    }


def _features(dense: np.ndarray, window: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """dense [P, n, F]"""
    passes, _, features = dense.shape
    top = np.full((passes, features, EXAMPLES), -1, np.int32)
    quantile = np.full((passes, features, BANDS, DRAWN), -1, np.int32)
    for p in range(passes):
        for f in range(features):
            order = [t for t in np.argsort(-dense[p, :, f], kind="stable") if dense[p, t, f] > 0]
            first = list({int(window[t]): t for t in reversed(order)}.values())
            best = sorted(first, key=lambda t: -dense[p, t, f])[:EXAMPLES]
            top[p, f, : len(best)] = best
            for band, tokens in enumerate(np.array_split(np.array(order, np.int32), BANDS)):
                drawn = rng.permutation(tokens)[:DRAWN]
                quantile[p, f, band, : len(drawn)] = drawn
    fires = dense > 0
    state = np.where(fires.any((0, 1)), np.where(fires[-1].any(0), 0, 2), 1).astype(np.int8)
    none = np.zeros((features, LOGITS), np.float32)
    return {
        "rate": fires.mean(1, dtype=np.float32),
        "mean": dense.mean(1),
        "max": dense.max(1),
        "histogram": np.zeros((passes, features, BINS), np.int32),
        "top": top,
        "top_value": top.astype(np.float32),
        "quantile": quantile,
        "quantile_value": quantile.astype(np.float32),
        "promoted": none.astype(np.int32),
        "promoted_value": none,
        "suppressed": none.astype(np.int32),
        "suppressed_value": none,
        "state": state,
        "agreement": np.where(state == 0, 0.5, np.nan).astype(np.float32),
        "jaccard": np.ones(features, np.float32),
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory whose run.json points to the analysis beside it."""
    rng = np.random.default_rng(0)
    folder, directory = tmp_path / "artifacts" / "analyze-0123", tmp_path / "run"
    directory.mkdir()
    ids = _text(rng)
    window = np.repeat(np.arange(WINDOWS), CONTEXT).astype(np.int32)
    (folder / "features").mkdir(parents=True)
    tokens = {
        "id": ids.astype(np.int32),
        "document": window // 2,
        "position": np.tile(np.arange(CONTEXT, dtype=np.int32), WINDOWS),
        "window": window,
        "live": ids != 0,
    }
    save_file(tokens, folder / "tokens.safetensors")
    (folder / "vocabulary.json").write_text(json.dumps(WORDS))
    for site, features in SITES.items():
        dense = np.stack([np.stack([_activations(ids, words[p], rng) for words in features], 1) for p in (0, 1)])
        for p, name in enumerate(PASSES):
            (folder / "codes" / name).mkdir(parents=True, exist_ok=True)
            save_file(_codes(dense[p]), folder / "codes" / name / f"{site}.safetensors")
        save_file(_features(dense, window, rng), folder / "features" / f"{site}.safetensors")
    sites = [{"site": site, "features": len(features)} for site, features in SITES.items()]
    summary = {"format": 1, "passes": PASSES, "n_tokens": len(ids), "n_live": int((ids != 0).sum()), "context": CONTEXT}
    (folder / "analysis.json").write_text(json.dumps(summary | {"sites": sites}))
    (directory / "run.json").write_text(json.dumps({"stages": {"analyze": "../artifacts/analyze-0123"}}))
    return directory


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    stand_in = StandIn()
    thread = threading.Thread(target=stand_in.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield stand_in
    stand_in.server.shutdown()
    stand_in.server.server_close()
    thread.join()
