"""When a store of activations pays: a pretraining step on it against one that runs the model, and the time to write it.

    runs after which it pays = seconds to write / (seconds of a live run - seconds of a stored run)

A step is what `end_to_end` takes apart: the batch, the clean run, the suite's own update. What has just been written is
read from memory (the page cache): where a store is larger than that, the disk has its say, too. Writing counts the
opening of the model.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.end_to_end import configure, sizes_of, update
from benchmarks.measure import interleaved
from benchmarks.rows import Row, say
from scae.activations import Store, StoredModule
from scae.data import Steps, WindowModule
from scae.experiment.execution import Execution
from scae.experiment.plan import Plan
from scae.experiment.separator import settle
from scae.experiment.workshop import Workshop
from scae.objectives import Objective
from scae.suite import Suite
from scae.training import SuiteTraining, start_from_data


def run(*, quick: bool, device: str, overrides: Sequence[str] = (), rounds: int = 9) -> list[Row]:
    """Two rows of steps, with float32 and with bfloat16 on disk, and for each what writing it takes."""
    rows: list[Row] = []
    with TemporaryDirectory() as folder:
        for dtype in ("float32", "bfloat16"):
            chosen = [*(["experiment=smoke"] if quick else []), f"trainer.accelerator={device}", *overrides]
            chosen += ["activations=stored", f"activations.dtype={dtype}", "trainer.progress=false"]
            chosen += [f"paths.artifacts={Path(folder) / 'artifacts'}", f"paths.output={folder}"]
            rows += _measured(dtype, chosen, device, 2 if quick else rounds)
    return rows


def _measured(dtype: str, overrides: list[str], device: str, rounds: int) -> list[Row]:
    say(f"store: writing {dtype}")
    config = settle(configure(overrides))
    plan = Plan(config)
    execution = Execution(plan)
    execution.up_to(["activations"])
    workshop, artifact = execution.workshop, plan.activations
    assert artifact is not None
    facts = artifact.facts()
    batches = {"batch_size": config.pretrain.batch_size, "steps": rounds + 1, "seed": config.seed}
    live: Steps = WindowModule(train=workshop.windows[0], **batches)
    stored: Steps = StoredModule(store=Store(artifact.folder), **batches)
    say(f"store: steps, {dtype}")
    contestants = {name: _step(workshop, data, device) for name, data in (("live", live), ("stored", stored))}
    times = interleaved(contestants, device=device, rounds=rounds)
    steps = config.pretrain.steps * config.trainer.accumulate
    saved = (times["live"].median - times["stored"].median) * steps
    a_token = facts["bytes"] / facts["stored"]
    sizes = sizes_of(config) | {"bytes a token": round(a_token), "MB": round(facts["bytes"] / 1e6)}
    written = {"bytes_a_token": a_token, "bytes": facts["bytes"], "stored_tokens": facts["stored"]}
    pays = facts["seconds"] / saved if saved > 0 else None
    return [
        Row(
            name=f"step, {dtype}",
            ratio=times["live"].median / times["stored"].median,
            ratio_is="live pretraining step / stored pretraining step",
            ours_s=times["stored"].median,
            baseline_s=times["live"].median,
            ours_bytes=None,
            baseline_bytes=None,
            sizes=sizes,
            extra=written,
        ),
        Row(
            name=f"write, {dtype}",
            ratio=facts["seconds"] / (times["live"].median * steps),
            ratio_is="seconds to write / seconds of one live pretraining; it pays after `pays_after` runs",
            ours_s=facts["seconds"],
            baseline_s=times["live"].median * steps,
            ours_bytes=None,
            baseline_bytes=None,
            sizes=sizes | {"pays after": "never" if pays is None else f"{pays:.2g} runs"},
            extra=written | {"pays_after": pays, "tokens_per_s": facts["stored"] / facts["seconds"]},
        ),
    ]


def _step(workshop: Workshop, data: Steps, device: str) -> Callable[[], Any]:
    """The next pretraining step of a suite of its own."""
    config, lm = workshop.config, workshop.lm
    torch.manual_seed(0)
    suite = Suite.from_config(config.sae, workshop.sites, lm).to(torch.device(device))
    suite.chunk_mb = config.trainer.chunk_mb
    start_from_data(suite, [data.batch(0, rank=0, world_size=1)], centred=config.sae.centred, furthest=0.0)
    objective = Objective.from_config(config.pretrain.loss, config.sae)
    module = SuiteTraining(suite, objective, config.pretrain, mode="plain", clip=config.trainer.clip, identity={})
    optimizer = module.configure_optimizers()["optimizer"]
    return partial(_take, iter(range(data.steps)), data, module, optimizer, device)


def _take(numbers: Any, data: Steps, module: SuiteTraining, optimizer: torch.optim.Optimizer, device: str) -> None:
    batch = data.batch(next(numbers), rank=0, world_size=1).to(device)
    update(module, optimizer, batch.trace(module.suite.lm, patterns=False))
