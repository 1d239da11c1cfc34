"""Two processes give what one gives, whatever the optimiser, also where sites begin one after the other (gloo)."""

from pathlib import Path

import pytest
import torch
from processes import run_script, write_script
from test_two_processes import read

SCRIPT = """
import torch
from scae.config import Logger, MuonOptimizer, ScheduleFreeOptimizer, SignumOptimizer, TrainerConfig
from scae.data import TokenWindows, WindowModule
from scae.objectives import Objective
from scae.objectives.terms import Recon
from scae.training import Place, SuiteTraining, fit

tokens = torch.randint(40, (30, 10), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
windows = TokenWindows(tokens=tokens, lengths=10 - torch.arange(30, dtype=torch.int32) % 5, bos=True)
moments = {{"beta1": 0.9, "beta2": 0.99, "eps": 1e-6}}
trainer = TrainerConfig(accelerator="cpu", devices=devices, num_nodes=1, strategy="ddp" if devices > 1 else "auto",
                        precision="32-true", accumulate=1, clip=0.1, chunk_mb=32,
                        checkpoint_minutes=60.0, checkpoint_steps=None, keep_checkpoints="all", progress=False,
                        worst_share_warning=0.99)
for optimizer in (
    MuonOptimizer(kind="muon", lr_factor=1.0, momentum=0.9, **moments),
    SignumOptimizer(kind="signum", lr_factor=1.0, momentum=0.9),
    ScheduleFreeOptimizer(kind="schedulefree", lr_factor=1.0, **moments),
):
    suite = tiny.make_suite.__wrapped__()(lm, n_features=20)
    config = tiny.neutral_training(steps=6, batch_size=8, lr=0.01, warmup=0.1, stagger=1, optimizer=optimizer)
    module = SuiteTraining(suite, Objective([Recon(weight=1.0, kind="fvu", knee=4.0)]), config, mode="plain", clip=0.1,
                           identity={{}})
    folder = out / optimizer.kind
    folder.mkdir(parents=True, exist_ok=True)
    fit(module, WindowModule(train=windows, batch_size=8, steps=6, seed=5), steps=6, tokens_per_step=80,
        trainer=trainer, logger=Logger(kind="csv", every=5, project=None, mode=None), seed=0,
        place=Place("pretrain", folder, "group", "pretrain"))
    torch.save(suite.state_dict(), folder / f"state-{{os.environ.get('LOCAL_RANK', '0')}}.pt")
"""


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    script = write_script(tmp_path, SCRIPT)
    for devices in (1, 2):
        run_script(script, devices, tmp_path / str(devices))
    for kind in ("muon", "signum", "schedulefree"):
        alone, first, second = (
            read(tmp_path / of / kind / f"state-{rank}.pt") for of, rank in (("1", 0), ("2", 0), ("2", 1))
        )
        for name, value in alone.items():
            assert torch.equal(first[name], second[name]), f"{kind}: the processes differ in {name}"
            torch.testing.assert_close(first[name], value, rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")
