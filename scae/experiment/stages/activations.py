"""Run the model once on training text and store what the sites read and write."""

from pathlib import Path
from typing import Any

import torch

from scae.activations import Drawn, Writer
from scae.config import StoredActivations
from scae.data import WindowModule
from scae.experiment.workshop import Workshop


def make(workshop: Workshop, folder: Path) -> dict[str, Any]:
    config, train = workshop.config, workshop.windows[0]
    kept = config.activations
    assert isinstance(kept, StoredActivations)
    count = min(workshop.plan.windows_kept, len(train))
    drawn = WindowModule(train=train, batch_size=count, steps=1, seed=kept.seed).indices(0)
    writer = Writer(
        lm=workshop.lm,
        sites=workshop.sites,
        drawn=Drawn.of(train, drawn),
        dtype=getattr(torch, kept.dtype),
        autocast=torch.bfloat16 if config.trainer.precision == "bf16-mixed" else None,
        batch_size=config.pretrain.batch_size,
        seed=kept.seed,
    )
    return {"tokens": count * config.data.context} | writer.write(folder)
