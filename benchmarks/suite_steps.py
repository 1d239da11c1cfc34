"""Steps of a whole suite, built from plain values, so that a fresh process can build the same ones."""

from pathlib import Path

import torch

from benchmarks.dense_reference import dense_masks, dense_pass, sum_of_fvu
from benchmarks.step import LR, Step
from benchmarks.synthetic import Sizes, SyntheticModel, connect, make_suite
from scae.config import AdamOptimizer, Training
from scae.objectives import Objective
from scae.objectives.terms import Recon
from scae.suite import Mode, Suite
from scae.training import SuiteTraining


def suite_step(sizes: dict, *, mode: Mode, connections: str, device: str) -> Step:
    """A finetuning (mode="pruned") or pretraining (mode="plain") step of a suite, the trace given."""
    suite = _suite(sizes, connections, device)
    model = suite.lm
    assert isinstance(model, SyntheticModel)
    trace = model.draw(seed=0)
    objective = Objective([Recon(weight=1.0, kind="fvu", knee=4.0)])

    def loss() -> torch.Tensor:
        return objective(suite(trace, mode=mode), trace, model.paths).total

    return Step(loss, _optimizer(suite))


def dense_step(sizes: dict, *, connections: str, device: str) -> Step:
    """The same finetuning step in the dense formulation."""
    suite = _suite(sizes, connections, device)
    model = suite.lm
    assert isinstance(model, SyntheticModel)
    trace = model.draw(seed=0)
    masks = dense_masks(suite.connections, model.device)

    def loss() -> torch.Tensor:
        return sum_of_fvu(dense_pass(suite, masks, trace), trace)

    return Step(loss, _optimizer(suite))


def write_connections(sizes: Sizes, method: str, path: str, device: str) -> str:
    """Choose connections once, for every process that needs them."""
    _suite(sizes.plain(), method, device).connections.save(Path(path))
    return path


def _suite(sizes: dict, connections: str, device: str) -> Suite:
    shape = Sizes(**sizes)
    suite = make_suite(SyntheticModel(shape).to(torch.device(device)))
    connect(suite, shape, connections)
    return suite


def _optimizer(suite: Suite) -> torch.optim.Optimizer:
    """The one that training uses."""
    config = Training(
        steps=1000,
        batch_size=1,
        lr=LR,
        lr_width=None,
        lr_features=None,
        lr_sites=None,
        warmup=0.0,
        decay=0.0,
        decay_shape="linear",
        decay_to=0.0,
        stagger=None,
        optimizer=AdamOptimizer(kind="adam", lr_factor=1.0, beta1=0.9, beta2=0.999, eps=1e-8),
        unit_norm=False,
    )
    module = SuiteTraining(suite, Objective([]), config, mode="pruned", clip=None, identity={})
    return module.configure_optimizers()["optimizer"]
