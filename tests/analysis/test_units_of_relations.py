"""The unit of the model's stream changes no relation, bit for bit on the CPU."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[1] / "suite"))
from test_units import in_other_units, opened

from scae.analysis.faithfulness import effects
from scae.analysis.foretold import by_pair
from scae.analysis.scalar import scalar
from scae.analysis.similarity import similar

Make = Callable[..., Any]


def test_the_unit_of_the_stream_changes_nothing(tiny: SimpleNamespace, make_suite: Make, ragged: Make) -> None:
    factor, found = 2.0**7, []
    hf = copy.deepcopy(tiny.hf).float()
    tokens = torch.randint(40, (3, 7), generator=torch.Generator().manual_seed(1))
    live = torch.ones_like(tokens, dtype=torch.bool)
    live[:, 0] = False
    for one, size in ((hf, 1.0), (in_other_units(hf, tiny.architecture, factor), factor)):
        lm = opened(copy.deepcopy(one))
        suite = make_suite(lm).float().eval()
        for site in suite.sites:
            units = {suite[site].writes} if suite[site].transcoder else {suite[site].reads, suite[site].writes}
            for unit in units:  # what a transcoder reads is normalised
                unit.scale *= size
                unit.centre *= size
        suite.connect(ragged(suite.layout))
        trace = lm.trace(tokens, live)
        near = [one.cosine for one in similar(suite).values()]
        found.append(
            (by_pair(effects(suite, lambda trace=trace: [trace])), scalar(suite, lambda trace=trace: [trace]), near)
        )
    (ours, curve, near), (theirs, other, others) = found
    assert ours == theirs
    assert any(row["rank"] for row in ours)
    assert curve == other
    assert all(torch.equal(a, b) for a, b in zip(near, others, strict=True))
