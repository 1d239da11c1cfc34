"""One training step of one dictionary: as a multiple of its encoder product, and against other packages."""

import json
import os
import statistics
import subprocess
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmarks.measure import ALLOCATOR, Samples, interleaved
from benchmarks.rows import Row, say
from benchmarks.worker import ROOT, Case, measured, peaks

GOAL = "<= 1.5"
PEERS = ("sae_lens", "sae_lens_sparse", "dictionary_learning", "sparsify")
PEERS_GOAL, PEERS_GOAL_AT = ">= 1.4 fastest, >= 4 others", 8192
OURS = "ours"


def run(
    *,
    quick: bool,
    device: str,
    peers: str | None = None,
    shape: dict[str, int] | None = None,
    features: Sequence[int] | None = None,
    rounds: int = 9,
) -> list[Row]:
    """A row for each number of features; with `peers`, the interpreter of their environment, one more for each peer."""
    small = {"tokens": 512, "d_model": 64, "k": 8}
    shape = shape or (small if quick else {"tokens": 4096, "d_model": 512, "k": 32})
    features = features or ((256, 512) if quick else (2048, 8192, 32768))
    rounds = 3 if quick else rounds
    rows = _against_product(shape, features, device, rounds)
    if peers:
        rows += _against_peers(peers, shape, features, device, rounds=1 if quick else 3)
    return rows


def _against_product(shape: dict[str, int], features: Sequence[int], device: str, rounds: int) -> list[Row]:
    times: list[dict[str, Samples]] = []
    cases: list[Case] = []
    for F in features:
        say(f"sae: F={F}")
        values = shape | {"features": F, "device": device}
        pair = {name: Case(f"dictionary_steps.{name}", values) for name in ("dictionary_step", "encoder_product")}
        times.append(interleaved({name: case.make() for name, case in pair.items()}, device=device, rounds=rounds))
        cases += pair.values()
    say("sae: memory")
    memory = peaks(cases, device=device)
    return [_product_row(shape | {"features": F}, times[i], memory[2 * i : 2 * i + 2]) for i, F in enumerate(features)]


def _product_row(sizes: dict[str, int], times: dict[str, Samples], memory: Sequence[int]) -> Row:
    step, product = times["dictionary_step"], times["encoder_product"]
    return Row.between(
        f"F={sizes['features']}",
        step,
        product,
        memory,
        ratio=step.median / product.median,
        ratio_is="training step / its encoder product x @ W_enc.T",
        sizes=_shown(sizes),
        goal=GOAL,
    )


def _against_peers(
    python: str, shape: dict[str, int], features: Sequence[int], device: str, *, rounds: int
) -> list[Row]:
    """Ours and theirs take turns, a process each; a package that cannot run says why in its row."""
    seconds: dict[tuple[str, int], list[float]] = defaultdict(list)
    memory: dict[tuple[str, int], list[int]] = defaultdict(list)
    notes: dict[str, dict[str, Any]] = {}
    for number in range(rounds):
        for name in (OURS, *PEERS):
            if "reason" in notes.get(name, {}):
                continue
            say(f"sae: round {number + 1} of {rounds}, {name}")
            answer = _ours(shape, features, device) if name == OURS else _theirs(python, name, shape, features, device)
            notes[name] = {key: value for key, value in answer.items() if key != "steps"}
            if "reason" in answer:
                say(f"sae: {name} skipped: {answer['reason']}")
            for F, one in zip(features, answer.get("steps", []), strict=False):
                seconds[name, F] += one["seconds"]
                memory[name, F].append(one["bytes"])
    return [_peer_row(name, shape | {"features": F}, seconds, memory, notes[name]) for F in features for name in PEERS]


def _peer_row(
    name: str,
    sizes: dict[str, int],
    seconds: dict[tuple[str, int], list[float]],
    memory: dict[tuple[str, int], list[int]],
    note: dict[str, Any],
) -> Row:
    F = sizes["features"]
    ours = statistics.median(seconds[OURS, F])
    ran = bool(seconds[name, F])
    theirs = statistics.median(seconds[name, F]) if ran else None
    return Row(
        name=f"{name} {note.get('version', 'skipped')}, F={F}",
        ratio=theirs / ours if theirs else None,
        ratio_is="step of the other package / our step with the same upkeep, times faster",
        ours_s=ours,
        baseline_s=theirs,
        ours_bytes=max(memory[OURS, F]),
        baseline_bytes=max(memory[name, F]) if ran else None,
        sizes=_shown(sizes),
        goal=PEERS_GOAL if F == PEERS_GOAL_AT else "",
        extra=note | {"ours_runs": len(seconds[OURS, F]), "baseline_runs": len(seconds[name, F])},
    )


def _ours(shape: dict[str, int], features: Sequence[int], device: str) -> dict[str, Any]:
    values = [shape | {"features": F, "device": device, "upkeep": True} for F in features]
    cases = [Case("dictionary_steps.dictionary_step", one, rounds=3) for one in values]
    return {"steps": measured(cases, device=device, keep_freed=True)}


def _theirs(python: str, package: str, shape: dict[str, int], features: Sequence[int], device: str) -> dict[str, Any]:
    request = shape | {"features": list(features), "device": device, "package": package, "rounds": 3}
    done = subprocess.run(
        [python, "-m", "benchmarks.peers", json.dumps(request)],
        capture_output=True,
        cwd=ROOT,
        env=os.environ | ALLOCATOR | {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"},
        text=True,
    )
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        return {"reason": (done.stderr.splitlines() or [f"exit code {done.returncode}"])[-1]}
    return json.loads(lines[-1])


def _shown(sizes: dict[str, int]) -> dict[str, int]:
    return {"N": sizes["tokens"], "d": sizes["d_model"], "k": sizes["k"], "F": sizes["features"]}
