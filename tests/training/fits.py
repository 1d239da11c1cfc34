"""Small fits: their configuration, one that is interrupted between two steps, and what a suite is in at its end."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback

from scae.config import AdamOptimizer, Anneal, AuxK, Bound, Loss, Mlp, Pursuit, TopKSae, TrainerConfig, Training
from scae.config import Logger as LoggerConfig
from scae.data import TokenWindows, WindowModule
from scae.objectives import LossOutput, Objective
from scae.suite import Mode, Suite
from scae.training import Place, SuiteTraining, Validate, fit

STEPS = 16


def data(windows: TokenWindows, steps: int) -> WindowModule:
    return WindowModule(train=windows, batch_size=4, steps=steps, seed=5)


def training(**changes: Any) -> Training:
    values: dict[str, Any] = {
        "steps": STEPS,
        "batch_size": 4,
        "lr": 0.01,
        "warmup": 0.1,
        "decay": 0.3,
        "decay_shape": "linear",
        "decay_to": 0.0,
        "lr_width": None,
        "lr_features": None,
        "lr_sites": None,
        "stagger": None,
        "optimizer": AdamOptimizer(kind="adam", lr_factor=1.0, beta1=0.9, beta2=0.999, eps=1e-8),
        "unit_norm": True,
    }
    return Training(**(values | changes))


def trainer(**changes: Any) -> TrainerConfig:
    values: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "num_nodes": 1,
        "strategy": "auto",
        "precision": "32-true",
        "accumulate": 1,
        "clip": 1.0,
        "chunk_mb": 32,
        "checkpoint_minutes": 1e-6,  # after every optimiser step
        "checkpoint_steps": None,
        "keep_checkpoints": "all",
        "worst_share_warning": 0.99,
        "progress": False,
    }
    return TrainerConfig(**(values | changes))


def objective(**weights: float) -> Objective:
    of = {"recon": 1.0, "logit_kl": 0.0, "auxk": 0.0} | weights
    loss = Loss.model_validate(
        {
            "recon": {"weight": of["recon"], "kind": "fvu", "knee": 4.0},
            "block_mse": {"weight": 0.0, "layers": "all"},
            "logit_kl": {"weight": of["logit_kl"], "temperature": 1.0},
            "ce": {"weight": 0.0},
            "sparsity": {"weight": 0.0},
            "partial": {"weight": 0.0, "kind": "fvu", "knee": 4.0},
            "auxk": {"weight": of["auxk"]},
        }
    )
    sae = TopKSae(
        kind="topk",
        features=9,
        expansion=None,
        k=4,
        centred=True,
        normalise="dataset",
        bound=Bound(margin=None, tokens=1),
        auxk=AuxK(k=3, dead_after=100),
        skip=False,
        anneal=Anneal(share=None, k_start=4),
        encoder="linear",
        mlp=Mlp(width=1, depth=1, nonlinearity="relu", skip=True, lr_factor=1.0),
        pursuit=Pursuit(method="gradient", steps=0),
    )
    return Objective.from_config(loss, sae)


def run(
    suite: Suite,
    windows: TokenWindows,
    folder: Path,
    *,
    loss: Objective,
    mode: Mode = "plain",
    config: Training | None = None,
    accumulate: int = 1,
    clip: float | None = 1.0,
    module: type[SuiteTraining] = SuiteTraining,
    callbacks: Sequence[Callback] = (),
    validate: Validate | None = None,
) -> int:
    """The number of steps."""
    config = config or training()
    folder.mkdir(exist_ok=True, parents=True)
    return fit(
        module(suite, loss, config, mode=mode, clip=clip, identity={"artifact": "pretrain-1"}),
        data(windows, config.steps * accumulate),
        steps=config.steps,
        tokens_per_step=40,
        trainer=trainer(accumulate=accumulate),
        logger=LoggerConfig(kind="csv", every=5, project=None, mode=None),
        place=Place("pretrain", folder, "group", "pretrain"),
        seed=0,
        callbacks=callbacks,
        validate=validate,
    )


def finetune(
    suite: Suite, windows: TokenWindows, folder: Path, callback: Callback, accumulate: int, module: type[SuiteTraining]
) -> None:
    run(
        suite,
        windows,
        folder,
        loss=objective(),
        mode="pruned",
        accumulate=accumulate,
        module=module,
        callbacks=[callback],
    )


def state(suite: Suite) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in suite.state_dict().items()}


class Interrupted(Exception):
    pass


class Interrupting(Objective):
    """Fails in the middle of one micro-step, behind the forward pass."""

    def __init__(self, inner: Objective, at: int) -> None:
        super().__init__(inner.terms)
        self.left = at

    def __call__(self, *args: Any) -> LossOutput:
        self.left -= 1
        if self.left < 0:
            raise Interrupted
        return super().__call__(*args)


def between_steps(at: int) -> type[SuiteTraining]:
    """A training that fails before its micro-step `at` does anything."""

    class Stopping(SuiteTraining):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if batch_idx == at:
                raise Interrupted
            return super().training_step(batch, batch_idx)

    return Stopping
