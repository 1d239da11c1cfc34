"""Runs and sweeps on disk with made-up, plausible numbers."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import Window, chromium, why_none

LAYERS = 4
SITES = [f"{layer}.{kind}" for layer in range(LAYERS) for kind in ("attn", "mlp")]
LM = {"lm/ce": 1.63, "lm/ce_zero": 9.42, "lm/ce_mean": 7.05, "lm/ce_unigram": 6.18}
# cross-entropy and mean FVU at C = 64, and how much of each goes away when C doubles
ARMS: dict[str, tuple[float, float, float]] = {
    "plain": (2.22, 0.21, 0.0),
    "dense": (2.21, 0.31, 0.0),
    "pruned": (1.98, 0.34, 0.05),
    "pruned_no_finetune": (3.29, 0.48, 0.11),
    "random_no_finetune": (6.30, 0.75, 0.01),
    "random": (2.34, 0.52, 0.02),
    "none": (2.51, 0.58, 0.0),
    "dense_finetuned": (1.85, 0.25, 0.0),
    "plain_finetuned": (1.94, 0.18, 0.0),
}
TWINS = ("random", "none", "dense_finetuned", "plain_finetuned")


def make_metrics(c: int = 64, *, twins: bool = True, shift: float = 0.0) -> dict[str, float]:
    """What an evaluation writes."""
    metrics: dict[str, float] = dict(LM)
    for number, (arm, (ce, fvu, slope)) in enumerate(ARMS.items()):
        if arm in TWINS and not twins:
            continue
        doublings = math.log2(max(c, 1) / 64)
        ce_here = ce * (1 - slope * doublings) ** 0.7 + shift
        fvu_here = fvu * (1 - slope * doublings)
        by_site = {
            site: fvu_here * (0.62 + 0.1 * i + (0.13 if i % 2 else -0.08) + 0.04 * ((i * 7 + number * 3) % 5 - 2))
            for i, site in enumerate(SITES)
        }
        metrics |= {
            f"{arm}/ce": ce_here,
            f"{arm}/ce_diff": ce_here - LM["lm/ce"],
            f"{arm}/ce_recovered": (LM["lm/ce_zero"] - ce_here) / (LM["lm/ce_zero"] - LM["lm/ce"]),
            f"{arm}/kl": 0.9 * (ce_here - LM["lm/ce"]),
            f"{arm}/top1": 0.86 - 0.1 * (ce_here - LM["lm/ce"]),
            f"{arm}/fvu_mean": sum(by_site.values()) / len(by_site),
            f"{arm}/fvu_max": max(by_site.values()),
        }
        metrics |= {f"{arm}/fvu/{site}": value for site, value in by_site.items()}
        metrics |= {f"{arm}/l0/{site}": 32.0 for site in SITES}
        metrics |= {f"{arm}/dead/{site}": 0.01 * number for site in SITES}
        if twins:
            metrics[f"{arm}/connected_recovered"] = (2.51 - ce_here) / (2.51 - LM["lm/ce"])
            metrics[f"{arm}/above_dense"] = ce_here - 1.85
    metrics |= {"connectivity/C": c, "connectivity/in_degree_mean": 57.25, "connectivity/out_degree_max": 1312}
    for i, down in enumerate(SITES[1:], start=1):
        metrics[f"connectivity/kept/{down}"] = 0.9 - 0.05 * i
        metrics |= {f"connectivity/from/{down}/{up}": 1 / i for up in SITES[:i]}
    return metrics | {"time/pretrain": 93.2, "time/finetune": 121.0, "tokens/pretrain": 2048000}


@pytest.fixture
def metrics() -> dict[str, float]:
    return make_metrics()


@pytest.fixture(scope="session")
def make() -> Callable[..., dict[str, float]]:
    return make_metrics


@pytest.fixture
def put() -> Callable[..., Path]:
    """Write a run directory."""

    def write(
        directory: Path, metrics: dict[str, float] | None, overrides: list[str] | None = None, **job: Any
    ) -> Path:
        directory.mkdir(parents=True)
        if metrics is not None:
            (directory / "metrics.json").write_text(json.dumps(metrics))
        known = {"status": "completed", "error": None, "seconds": 231.4, "choices": {"model": "tiny", "sae": "topk"}}
        (directory / "job.json").write_text(json.dumps(known | {"overrides": overrides or []} | job))
        (directory / "run.json").write_text(json.dumps({"stages": {"pretrain": "../artifacts/pretrain-abc"}}))
        return directory

    return write


@pytest.fixture
def sweep(tmp_path: Path, put: Callable[..., Path]) -> Path:
    """Four values of C, a fifth job that failed."""
    directory = tmp_path / "sweep"
    for number, c in enumerate((4, 16, 64, 256)):
        put(directory / str(number), make_metrics(c), ["sae.k=32", f"connectivity.C={c}"])
    error = "ValueError: `connectivity.C` must be >= 0\nTraceback: more"
    put(directory / "4", None, ["sae.k=32", "connectivity.C=-1"], status="failed", error=error)
    return directory


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium, closed before another module may open one of its own; skips where there is none."""
    if reason := why_none():
        pytest.skip(reason)
    with chromium() as browser:
        yield browser


@pytest.fixture
def window(browser: Any) -> Iterator[Callable[..., Window]]:
    """Open windows; at the end none of them may have anything to complain of."""
    opened: list[Window] = []

    def open_window(**given: Any) -> Window:
        opened.append(Window(browser, **given))
        return opened[-1]

    yield open_window
    for one in opened:
        one.check()
        one.context.close()
