"""Two processes give what one gives: a batch is counted over all devices (CPU, gloo, float64)."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run_script, write_script

SCRIPT = """
import torch

from scae.config import Anneal, AuxK, Logger, TrainerConfig
from scae.data import TokenWindows, WindowModule
from scae.objectives import Objective
from scae.objectives import terms
from scae.training import Place, SuiteTraining, fit

tokens = torch.randint(40, (30, 10), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
lengths = 10 - torch.arange(30, dtype=torch.int32) % 5
packing = {{
    "document": TokenWindows(tokens=tokens, lengths=lengths, bos=True),
    "packed": TokenWindows(tokens=tokens, lengths=torch.full((30,), 10, dtype=torch.int32), bos=True, separator=7,
                           starts=tokens % 6 == 0),  # what stands between documents, and where attention ends
}}
mse, fvu, huber = (terms.Recon(weight=1.0, kind=kind, knee=0.5) for kind in ("mse", "fvu", "huber"))
kl, ce = terms.LogitKl(weight=1.0, temperature=1.5), terms.CrossEntropy(weight=1.0)
block_mse, auxk = terms.BlockMse(weight=0.1, layers="all"), terms.AuxK(weight=0.1)
losses = {{
    "mse": ("pruned", [mse]),
    "fvu": ("plain", [fvu]),
    "recon_kl": ("pruned", [huber, kl]),
    "ce": ("pruned", [ce]),
    "e2e": ("spliced", [fvu, block_mse, kl]),
    "all": ("pruned", [huber, block_mse, kl, ce, terms.Sparsity(weight=0.01),
                       terms.Partial(weight=0.3, kind="fvu", knee=0.5), auxk]),
}}
config = tiny.neutral_training(steps=4, batch_size=8, lr=0.01, warmup=0.1, decay=0.3)
trainer = TrainerConfig(accelerator="cpu", devices=devices, num_nodes=1, strategy="ddp" if devices > 1 else "auto",
                        precision="32-true", accumulate=1, clip=0.1, chunk_mb=32,
                        checkpoint_minutes=60.0,
                        checkpoint_steps=None, keep_checkpoints="all", worst_share_warning=0.99, progress=False)
tried = {tried}
offers = {{"relu": ["penalty"], "jumprelu": ["penalty"], "matryoshka": ["partial"], "gated": ["penalty", "partial"]}}
for activation in tried:
    for packed, windows in packing.items():
        for loss in tried[activation]:
            mode, parts = losses[loss]
            revival = AuxK(k=3, dead_after=100) if auxk in parts else None
            suite = tiny.make_suite.__wrapped__()(lm, activation=activation, n_features=20, auxk=revival)
            suite[suite.sites[0]].encoder.b.data[:2] = -30.0
            for picking in suite.picking:
                picking.anneal = Anneal(share=0.5, k_start=9) if loss == "all" else None
            suite.connect(tiny.ragged.__wrapped__()(suite.layout))
            folder = out / activation / packed / loss
            folder.mkdir(parents=True, exist_ok=True)
            objective = Objective(parts, offers=["revived", *offers.get(activation, [])])
            module = SuiteTraining(suite, objective, config, mode=mode, clip=0.1, identity={{"artifact": "x"}})
            fit(module, WindowModule(train=windows, batch_size=8, steps=4, seed=5), steps=4, tokens_per_step=80,
                trainer=trainer, logger=Logger(kind="csv", every=1, project=None, mode=None),
                place=Place("pretrain", folder, "group", "pretrain"), seed=0)
            rank = os.environ.get("LOCAL_RANK", "0")
            torch.save(suite.state_dict(), folder / f"state-{{rank}}.pt")
"""
TRIED = {
    "batchtopk": ["mse", "fvu", "recon_kl", "ce", "e2e", "all"],
    "relu": ["mse", "all"],
    "topk": ["recon_kl", "all"],
    "jumprelu": ["all"],
    "matryoshka": ["all"],
    "gated": ["all"],
}
"""By type of dictionary, the losses: every one where the processes share a cut, too."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    folder = tmp_path_factory.mktemp("ddp")
    script = write_script(folder, SCRIPT, tried=repr(TRIED))

    def run(devices: int) -> Path:
        out = folder / f"on-{devices}"
        if out.exists():
            return out
        run_script(script, devices, out)
        return out

    return run


def read(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def logged(folder: Path) -> dict[str, list[float]]:
    """By name, what was logged step by step."""
    rows = list(csv.DictReader((folder / "logs" / "metrics.csv").read_text().splitlines()))
    return {name: [float(row[name]) for row in rows if row[name]] for name in rows[0] if name.startswith("train/")}


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["document", "packed"])
@pytest.mark.parametrize(
    ("activation", "loss"),
    [(activation, loss) for activation, losses in TRIED.items() for loss in losses],
)
def test_two_processes_give_what_one_gives(
    trained: Callable[[int], Path], activation: str, packing: str, loss: str
) -> None:
    """The processes see different numbers of text tokens: means, the cut of BatchTopK and clocks are those of both.

    `all` has every term that a type has something for, and a k that falls on the way.
    """
    case = Path(activation) / packing / loss
    one = read(trained(1) / case / "state-0.pt")
    two = [read(trained(2) / case / f"state-{rank}.pt") for rank in range(2)]
    clocks = [name for name in one if name.endswith("tokens_since_fired")]
    assert max(int(one[name].max()) for name in clocks) > 150
    assert (
        activation not in ("batchtopk", "matryoshka")
        or min(float(v) for name, v in one.items() if name.endswith("threshold")) > 0
    )
    for name, value in one.items():
        assert torch.equal(two[0][name], two[1][name]), f"the processes differ in {name}"
        if name in clocks:
            assert torch.equal(two[0][name], value), name
        else:
            torch.testing.assert_close(two[0][name], value, rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
    alone, together = logged(trained(1) / case), logged(trained(2) / case)
    assert len(alone["train/loss"]) == 4
    assert together.keys() == alone.keys()
    for name, values in alone.items():
        assert together[name] == pytest.approx(values, rel=1e-6), name
