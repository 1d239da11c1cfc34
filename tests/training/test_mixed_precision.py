"""bf16-mixed rounds the language model's products, in the clean run and in the spliced one alike."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fits import data, trainer, training

from scae.config import Logger
from scae.data import TokenWindows
from scae.lm import LanguageModel, Trace
from scae.objectives import Comparison, Objective, Term
from scae.suite import Mode
from scae.training import Place, SuiteTraining, fit

Make = Callable[..., Any]


@pytest.fixture
def single(tiny: Any) -> LanguageModel:
    """A tiny model in float32: autocast leaves float64 alone."""
    lm = copy.deepcopy(tiny.lm)
    lm.bridge.float()
    lm.paths = lm.paths.to(torch.float32)
    return lm


class Spliced(Term):
    """Runs the model again with what the clean run wrote put in its place, in the middle of a training step."""

    name = "spliced"

    def __init__(self, lm: LanguageModel) -> None:
        super().__init__(weight=1.0)
        self.lm = lm
        self.traces: list[Trace] = []

    def __call__(self, comparison: Comparison) -> torch.Tensor:
        trace = comparison.trace
        self.traces.append(trace)
        wrote = self.lm.splice(trace, lambda module, read, out: out, readers=())
        put_back = self.lm.splice(trace, lambda module, read, out: trace.outputs[module], readers=())
        for module, output in trace.outputs.items():
            assert torch.equal(wrote[module], output), module
            assert torch.equal(put_back[module], output), module
        return comparison.out.residual().square().mean()


@pytest.mark.parametrize("mode", ["plain", "spliced", "pruned"])
def test_both_runs_of_the_model_are_equal_bit_for_bit(
    single: LanguageModel, make_suite: Make, tmp_path: Path, mode: Mode
) -> None:
    tokens = torch.randint(40, (12, 10), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    windows = TokenWindows(tokens=tokens, lengths=torch.full((12,), 10, dtype=torch.int32), bos=True)
    term = Spliced(single)
    module = SuiteTraining(
        make_suite(single).float(), Objective([term]), training(steps=2), mode=mode, clip=1.0, identity={}
    )
    fit(
        module,
        data(windows, 2),
        steps=2,
        tokens_per_step=40,
        trainer=trainer(precision="bf16-mixed"),
        logger=Logger(kind="csv", every=1, project=None, mode=None),
        place=Place("pretrain", tmp_path, "group", "pretrain"),
        seed=0,
    )
    assert len(term.traces) == 2
    for trace in term.traces:
        assert trace.autocast == torch.bfloat16
        exact = single.trace(trace.tokens, trace.live)
        assert exact.autocast is None
        assert any(not torch.equal(exact.outputs[module], output) for module, output in trace.outputs.items())


def test_the_dictionaries_of_a_spliced_run_compute_in_their_own_precision(single: LanguageModel) -> None:
    matrix = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trace = single.trace(torch.arange(8)[None])
        seen: list[torch.dtype] = []

        def replace(module: Any, read: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
            seen.append((out @ matrix).dtype)
            return out

        single.splice(trace, replace, readers=trace.outputs)
        assert (matrix @ matrix).dtype == torch.bfloat16
    assert set(seen) == {torch.float32}
