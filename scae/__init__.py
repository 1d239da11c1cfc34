"""Sparsely Connected Autoencoders: train, prune and read suites of sparse dictionaries.

The public face, for a notebook:

    open_run(folder), Run           a finished run: config, metrics, lm, suite, pretrained, windows, heldout()
    train("sae=batchtopk", ...)     `python train.py sae=batchtopk ...`, and the run that it leaves
    load_suite(folder)              its suite and its language model, nothing else
    open_model(name), LanguageModel a frozen language model; `lm.trace(text)` is its clean run, a Trace
    Suite                           dictionaries by site: `suite(trace, mode="pruned")`, `suite.inputs(site, feature)`
    Dictionary, SparseCode          `suite[site]`, and what it says about a text: features and activations by token
    Site                            where a dictionary stands: `Site.parse("3.mlp")`
    Connections                     which features each feature reads from: `suite.connections`
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scae.command.from_python import train
    from scae.connections import Connections
    from scae.dictionaries import Dictionary
    from scae.experiment.opened import Run, load_suite, open_run
    from scae.kernels import SparseCode
    from scae.lm import LanguageModel, Trace, open_model
    from scae.sites import Site
    from scae.suite import Suite

_HOMES = {  # opened on first use: torch is heavy
    "Connections": "connections",
    "Dictionary": "dictionaries",
    "LanguageModel": "lm",
    "Run": "experiment.opened",
    "Site": "sites",
    "SparseCode": "kernels",
    "Suite": "suite",
    "Trace": "lm",
    "load_suite": "experiment.opened",
    "open_model": "lm",
    "open_run": "experiment.opened",
    "train": "command.from_python",
}
__all__ = [
    "Connections",
    "Dictionary",
    "LanguageModel",
    "Run",
    "Site",
    "SparseCode",
    "Suite",
    "Trace",
    "load_suite",
    "open_model",
    "open_run",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"scae.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'scae' has no attribute '{name}'")
