"""What looks at a sample once: choosing connections, starting a suite, evaluating it; in parts, and all at once.

All at once is the baseline: every run of the model is kept, every site is measured together, the predictions of a batch
lie in one table.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.synthetic import Sizes, SyntheticModel, make_suite
from scae.config import Connectivity
from scae.data import Batch
from scae.evaluation import Arm, compared, evaluate
from scae.lm import Trace
from scae.selection import choose
from scae.training import start, start_from_data

UNBOUNDED = 1 << 62


class DrawnModel(SyntheticModel):
    """Runs on a batch whose first token is the seed to draw the run from."""

    def trace(self, text: Any, live: Any = None, documents: Any = None, *, patterns: bool = True) -> Trace:
        drawn = self.draw(seed=int(text[0, 0]))
        return drawn if patterns else replace(drawn, patterns=None)


@dataclass(frozen=True)
class Bounded:
    """A computation, with the bounds of its parts lifted or not."""

    run: Callable[[], Any]
    bounded: bool

    def __call__(self) -> None:
        with ExitStack() as lifted:
            if not self.bounded:
                lifted.enter_context(patch.object(compared, "LOGITS", UNBOUNDED))
                lifted.enter_context(patch.object(start, "HELD", UNBOUNDED))
            self.run()

    def settle(self) -> None: ...

    def rest(self) -> None: ...


def scoring(sizes: dict, *, batches: int, device: str, bounded: bool) -> Bounded:
    """Connections by contribution; unbounded, with all runs of the model kept beside what is made of them."""
    model = SyntheticModel(Sizes(**sizes)).to(torch.device(device))
    suite = make_suite(model)
    config = Connectivity(
        method="contribution", C=model.sizes.C, scope="joint", budget="even", spread=1, weighting="activation",
        tokens=model.sizes.tokens * batches, chunk_mb=16, path=None,
    )  # fmt: skip

    def traces() -> Iterator[Trace]:
        return (model.draw(seed=seed) for seed in range(batches))

    def run() -> None:
        kept = [] if bounded else list(traces())
        choose(config, suite, traces if bounded else lambda: kept, seed=0)

    return Bounded(run, bounded)


def starting(sizes: dict, *, batches: int, device: str, bounded: bool) -> Bounded:
    """Units, biases and scales of a new suite from the streams of the model."""
    model = DrawnModel(Sizes(**sizes)).to(torch.device(device))
    suite = make_suite(model)
    shape = (model.sizes.windows, model.sizes.context)
    given = [Batch(torch.full(shape, seed), torch.ones(shape, dtype=torch.bool)) for seed in range(batches)]
    return Bounded(lambda: start_from_data(suite, given, centred=True, furthest=0.01), bounded)


def evaluating(sizes: dict, *, vocab: int, device: str, bounded: bool) -> Bounded:
    """Two arms on one batch, with a vocabulary as large as that of GPT-2."""
    model = SyntheticModel(Sizes(**sizes)).to(torch.device(device))
    paths = model.paths
    model.paths = replace(
        paths,
        W_U=torch.randn(paths.d_model, vocab, generator=torch.Generator().manual_seed(1)).to(paths.W_U),
        b_U=paths.b_U.new_zeros(vocab),
    )
    suite = make_suite(model)
    arms = [Arm(mode, suite, mode) for mode in ("plain", "dense")]
    return Bounded(lambda: evaluate(model, arms, lambda: [model.draw(seed=0)]), bounded)
