"""Two processes move the same connections as one does, and let in the same features (CPU, gloo, float64)."""

from pathlib import Path

import pytest
import torch
from processes import run_script, write_script
from safetensors.torch import load_file

from scae.connections import Connections

SCRIPT = """
import torch
from safetensors.torch import save_file
from scae.config import Logger, Regrow, Revive, TrainerConfig
from scae.data import TokenWindows, WindowModule
from scae.objectives import Objective
from scae.objectives.terms import Recon
from scae.training import Place, Regrowth, Revival, SuiteTraining, fit

tokens = torch.randint(40, (30, 10), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
windows = TokenWindows(tokens=tokens, lengths=torch.full((30,), 10, dtype=torch.int32), bos=True)
suite = tiny.make_suite.__wrapped__()(lm, n_features=20)
suite.connect(tiny.ragged.__wrapped__()(suite.layout))
for site in suite.sites:
    suite[site].encoder.b.data[2] -= 50
config = tiny.neutral_training(steps=6, batch_size=8, lr=0.01, warmup=0.1, decay=0.3)
trainer = TrainerConfig(accelerator="cpu", devices=devices, num_nodes=1, strategy="ddp" if devices > 1 else "auto",
                        precision="32-true", accumulate=1, clip=0.1, chunk_mb=32,
                        checkpoint_minutes=60.0,
                        checkpoint_steps=None, keep_checkpoints="all", progress=False, worst_share_warning=0.99)
objective = Objective([Recon(weight=1.0, kind="fvu", knee=4.0)])
regrowth = Regrowth(suite, objective, Regrow(every=2, share=0.5, until=1.0, batches=2), steps=6, chunk_mb=1)
revival = Revival(suite, Revive(every=2, after=100, until=1.0), steps=6)
out.mkdir(parents=True, exist_ok=True)
module = SuiteTraining(suite, objective, config, mode="pruned", clip=0.1, identity={{}})
fit(module, WindowModule(train=windows, batch_size=8, steps=6, seed=5), steps=6, tokens_per_step=80, trainer=trainer,
    logger=Logger(kind="csv", every=5, project=None, mode=None), seed=0,
    place=Place("finetune", out, "group", "finetune"), callbacks=[revival, regrowth])
biases = {{str(site): suite[site].encoder.b.detach() for site in suite.sites}}
save_file(biases, out / f"biases-{{os.environ.get('LOCAL_RANK', '0')}}.safetensors")
suite.connections.save(out / f"{{os.environ.get('LOCAL_RANK', '0')}}.safetensors")
tiny.ragged.__wrapped__()(suite.layout).save(out / "before.safetensors")
"""


@pytest.mark.slow
def test_two_processes_move_what_one_moves(tmp_path: Path) -> None:
    script = write_script(tmp_path, SCRIPT)
    for devices in (1, 2):
        run_script(script, devices, tmp_path / str(devices))
    alone, first, second, before = (
        Connections.load(tmp_path / f"{name}.safetensors") for name in ("1/0", "2/0", "2/1", "1/before")
    )
    assert alone != before
    assert first == second
    assert first == alone
    ranks = (("1", 0), ("2", 0), ("2", 1))
    alone, first, second = (load_file(tmp_path / f"{run}/biases-{rank}.safetensors") for run, rank in ranks)
    for site, bias in alone.items():
        assert torch.equal(first[site], second[site])
        torch.testing.assert_close(first[site], bias, rtol=1e-9, atol=1e-9)
    let_in = {site for site, bias in alone.items() if bias[2] > -40}  # 50 below at first; where it is of use
    assert len(let_in) >= 2
