"""Two processes validate as one does, end at the same step and keep the same suite (CPU, gloo, float64)."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run_script, write_script

SCRIPT = """
import torch
from scae.config import Logger, TrainerConfig, Validation
from scae.data import TokenWindows, WindowModule, kept_aside
from scae.objectives import Objective
from scae.objectives.terms import LogitKl, Recon
from scae.training import Place, Snapshots, SuiteTraining, Validate, fit, snapshots

tokens = torch.randint(40, (46, 10), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
windows = TokenWindows(tokens=tokens, lengths=10 - torch.arange(46, dtype=torch.int32) % 5, bos=True)
drawn, aside = kept_aside(windows, tokens=160, batch_size=8, key="x")
suite = tiny.make_suite.__wrapped__()(lm, n_features=20, activation="batchtopk")
suite.connect(tiny.ragged.__wrapped__()(suite.layout))
config = tiny.neutral_training(steps=16, batch_size=8, lr=1.0, warmup=0.99, unit_norm=False)
trainer = TrainerConfig(accelerator="cpu", devices=devices, num_nodes=1, strategy="ddp" if devices > 1 else "auto",
                        precision="32-true", accumulate=1, clip=None, chunk_mb=32, checkpoint_minutes=60.0,
                        checkpoint_steps=3, keep_checkpoints="all", progress=False, worst_share_warning=0.99)
objective = Objective([Recon(weight=1.0, kind="fvu", knee=4.0), LogitKl(weight=1.0, temperature=1.0)])
how = Validation(every=1, tokens=160, metric="fvu_mean", keep="best", patience=3, min_delta=0.0)
validate = Validate("pretrain", suite, how, aside, batch_size=8)
out.mkdir(parents=True, exist_ok=True)
module = SuiteTraining(suite, objective, config, mode="plain", clip=None, identity={{}})
steps = fit(module, WindowModule(train=drawn, batch_size=8, steps=16, seed=5), steps=16, tokens_per_step=80,
            trainer=trainer, logger=Logger(kind="csv", every=5, project=None, mode=None), seed=0,
            place=Place("pretrain", out, "group", "pretrain"),
            callbacks=[Snapshots(suite, out, every=3, keep=None)], validate=validate)
validate.finish()
rank = os.environ.get("LOCAL_RANK", "0")
torch.save(suite.state_dict(), out / f"{{rank}}.pt")
note = {{"steps": steps, "kept": validate.kept_at, "best": validate.course.best}}
(out / f"{{rank}}.json").write_text(json.dumps(note))
"""


def read(folder: Path, rank: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    return torch.load(folder / f"{rank}.pt", weights_only=True), json.loads((folder / f"{rank}.json").read_text())


@pytest.mark.slow
def test_two_processes_validate_as_one_does(tmp_path: Path) -> None:
    script = write_script(tmp_path, SCRIPT)
    for devices in (1, 2):
        run_script(script, devices, tmp_path / str(devices))
    (alone, told), (first, same), (second, too) = (read(tmp_path / d, r) for d, r in (("1", 0), ("2", 0), ("2", 1)))
    assert same == too
    assert same["best"] == pytest.approx(told["best"], rel=1e-10)
    assert (same["steps"], same["kept"]) == (told["steps"], told["kept"])
    assert told["kept"] + 3 == told["steps"] < 16
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=1e-9, atol=1e-11)
    histories = []
    for devices in ("1", "2"):
        with (tmp_path / devices / "logs" / "metrics.csv").open() as file:
            histories.append(list(csv.DictReader(file)))
        assert sorted(path.name for path in (tmp_path / devices / "steps").iterdir())[0] == "000003"
    for one, two in zip(*histories, strict=True):
        valid = [name for name in one if name.startswith("valid/")]
        assert {"valid/loss", "valid/recon", "valid/logit_kl", "valid/fvu_mean", "valid/l0"} <= set(valid)
        assert [float(two[name]) for name in valid] == pytest.approx([float(one[name]) for name in valid], rel=1e-5)
