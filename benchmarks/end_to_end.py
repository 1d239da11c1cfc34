"""The default experiment: what each stage takes, and where a training step spends its time."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hydra import compose, initialize_config_dir

from benchmarks.measure import timed
from benchmarks.rows import Row, say
from benchmarks.worker import ROOT
from scae.command import values
from scae.config import STAGES, Config, parse
from scae.data import Batch, WindowModule, train_and_heldout
from scae.experiment.opened import load_suite
from scae.objectives import Objective
from scae.suite import Mode, Suite
from scae.training import SuiteTraining

PARTS = ("data", "language model", "suite")


def run(*, quick: bool, device: str, overrides: Sequence[str] = (), steps: int = 15) -> list[Row]:
    """`python train.py` with fresh artifacts, then one pretraining and one finetuning step taken apart."""
    chosen = [*(["experiment=smoke"] if quick else []), f"trainer.accelerator={device}", *overrides]
    with TemporaryDirectory() as folder:
        artifacts, output = Path(folder) / "artifacts", Path(folder) / "run"
        wall, peak = _train([*chosen, f"paths.artifacts={artifacts}", f"hydra.run.dir={output}"])
        metrics = json.loads((output / "metrics.json").read_text())
        config = configure([*chosen, f"paths.artifacts={artifacts}", f"paths.output={output}"])
        rows = _stage_rows(metrics, wall, peak, sizes_of(config))
        for stage in ("pretrain", "finetune"):
            rows += _profile(stage, config, output, device, 5 if quick else steps)
        return rows


def _train(overrides: list[str]) -> tuple[float, int]:
    """The seconds of the whole command, and the most memory that its process held."""
    say(f"end_to_end: python train.py {' '.join(overrides)}")
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "train.py", "trainer.progress=false", *overrides], cwd=ROOT, stdout=sys.stderr
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"python train.py ended with exit code {process.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def configure(overrides: list[str]) -> Config:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return parse(values(compose("train", overrides=overrides)))


def _stage_rows(metrics: dict[str, float], wall: float, peak: int, sizes: dict[str, Any]) -> list[Row]:
    taken = {stage: metrics[f"time/{stage}"] for stage in STAGES if f"time/{stage}" in metrics}
    rows = []
    for stage, seconds in (taken | {"the rest": wall - sum(taken.values())}).items():
        tokens = metrics.get(f"tokens/{stage}", 0)
        rows.append(
            Row(
                name=stage,
                ratio=seconds / wall,
                ratio_is="share of the whole command; baseline: the command, and the most memory it held",
                ours_s=seconds,
                baseline_s=wall,
                ours_bytes=None,
                baseline_bytes=peak,
                sizes=sizes | ({"tokens": int(tokens), "tokens/s": round(tokens / seconds)} if tokens else {}),
                extra={"tokens": tokens, "tokens_per_s": tokens / seconds if tokens else None},
            )
        )
    return rows


def _profile(stage: str, config: Config, output: Path, device: str, steps: int) -> list[Row]:
    """The parts of one step, on the suite, the model and the windows of the run that was just made."""
    say(f"end_to_end: one {stage} step")
    suite, lm = load_suite(output, finetuned=False)
    lm.to(torch.device(device))
    suite.to(device).train()
    suite.chunk_mb = config.trainer.chunk_mb
    training = config.pretrain if stage == "pretrain" else config.finetune
    objective = Objective.from_config(config.pretrain.loss if stage == "pretrain" else config.loss, config.sae)
    mode: Mode = "pruned" if stage == "finetune" else "spliced" if objective.reads_stream else "plain"
    windows, _ = train_and_heldout(config.data, lm.tokenizer, Path(config.paths.artifacts))
    data = WindowModule(train=windows, batch_size=training.batch_size, steps=steps + 1, seed=config.seed)
    module = SuiteTraining(suite, objective, training, mode=mode, clip=config.trainer.clip, identity={})
    optimizer = module.configure_optimizers()["optimizer"]
    seconds: dict[str, list[float]] = defaultdict(list)
    for number in range(steps + 1):
        data_s, batch = timed(partial(_batch, data, number, device), device)
        trace_s, trace = timed(partial(lm.trace, *batch, patterns=mode in ("dense", "pruned")), device)
        suite_s, _ = timed(partial(update, module, optimizer, trace), device)
        for part, value in zip(PARTS, (data_s, trace_s, suite_s), strict=True):
            seconds[part] += [value] if number else []  # the first warms up
    medians = {part: statistics.median(seconds[part]) for part in PARTS}
    whole = sum(medians.values())
    tokens = training.batch_size * config.data.context
    return [
        Row(
            name=f"{stage} step: {part}",
            ratio=medians[part] / whole,
            ratio_is="share of one training step; baseline: the step",
            ours_s=medians[part],
            baseline_s=whole,
            ours_bytes=None,
            baseline_bytes=None,
            sizes=sizes_of(config) | {"tokens": tokens, "pass": mode},
            extra={"tokens_per_s": tokens / whole},
        )
        for part in PARTS
    ]


def _batch(data: WindowModule, number: int, device: str) -> Batch:
    return data.batch(number, rank=0, world_size=1).to(device)


def update(module: SuiteTraining, optimizer: torch.optim.Optimizer, trace: Any) -> None:
    """What Lightning calls from the trace on, in its order."""
    suite: Suite = module.suite
    optimizer.zero_grad()
    out = suite(trace, mode=module.mode)
    loss = module.objective(out, trace, suite.lm.paths)
    for site, code in out.codes.items():
        suite[site].count_firing(code.fired(), trace.n_live)
    loss.total.backward()
    module.on_before_optimizer_step(optimizer)
    module.configure_gradient_clipping(optimizer)
    optimizer.step()
    if module.config.unit_norm:
        for site in suite.sites:
            suite[site].decoder.normalise()


def sizes_of(config: Config) -> dict[str, Any]:
    model = config.model
    own = {"L": model.n_layers, "d": model.d_model} if model.kind == "tiny" else {}
    k = {} if config.sae.picked is None else {"k": config.sae.picked}
    return own | k | {"C": config.connectivity.C, "context": config.data.context}
