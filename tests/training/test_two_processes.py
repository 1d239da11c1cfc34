"""Two processes give what one gives: a batch is counted over all devices (CPU, gloo, float64)."""

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scae.data import TokenWindows, WindowModule

ROOT = Path(__file__).parents[2]
SCRIPT = '''
"""`python script.py DEVICES OUT`: train tiny suites; Lightning starts this file again for the other devices."""
import importlib.util, os, sys
from pathlib import Path

root, devices, out = Path({root!r}), int(sys.argv[1]), Path(sys.argv[2])
sys.path.insert(0, str(root))
spec = importlib.util.spec_from_file_location("tiny_models", root / "tests" / "conftest.py")
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)
import torch

from scae.data import TokenWindows, WindowModule
from scae.config import Logger, Loss, TrainerConfig, Training
from scae.data import TokenWindows, WindowModule
from scae.dictionaries import BatchTopK, Dictionary, TopK
from scae.objectives import Objective
from scae.objectives.terms import LogitKl, Recon
from scae.suite import Suite
from scae.training import Place, SuiteTraining, fit

lm = tiny._build("gpt2").lm
tokens = torch.randint(40, (30, 10), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
windows = TokenWindows(tokens=tokens, lengths=10 - torch.arange(30, dtype=torch.int32) % 5, bos=True)
config = Training(steps=6, batch_size=8, lr=0.01, warmup=0.1, decay=0.3, unit_norm=True)
trainer = TrainerConfig(accelerator="cpu", devices=devices, num_nodes=1, strategy="ddp" if devices > 1 else "auto",
                        precision="32-true", accumulate=1, clip=0.1, chunk_mb=32,
                        checkpoint_minutes=60.0, worst_share_warning=0.99, progress=False)
logger = Logger(kind="csv", every=5, project=None, mode=None)
for kind in ("mse", "fvu", "huber"):
    generator = torch.Generator().manual_seed(3)
    suite = Suite({{site: Dictionary(d_model=16, n_features=20, activation=TopK(k=3), transcoder=site.kind == "mlp")
                   for site in lm.paths.modules}}, lm).double()
    for parameter in suite.parameters():
        parameter.data = 0.4 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
    suite[suite.sites[0]].b_enc.data[:2] = -30.0
    folder = out / kind
    folder.mkdir(parents=True, exist_ok=True)
    objective = Objective([Recon(weight=1.0, kind=kind, knee=0.5), LogitKl(weight=1.0, temperature=1.0)])
    module = SuiteTraining(suite, objective, config, mode="pruned", clip=0.1, identity={{"artifact": "x"}})
    fit(module, WindowModule(train=windows, batch_size=8, steps=6, seed=5), steps=6, tokens_per_step=80,
        trainer=trainer, logger=logger, place=Place("pretrain", folder, "group"), seed=0)
    rank = os.environ.get("LOCAL_RANK", "0")
    torch.save(suite.state_dict(), folder / f"state-{{rank}}.pt")
'''


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    folder = tmp_path_factory.mktemp("ddp")
    script = folder / "script.py"
    script.write_text(SCRIPT.format(root=str(ROOT)))

    def run(devices: int) -> Path:
        out = folder / f"on-{devices}"
        if out.exists():
            return out
        arguments = [str(script), str(devices), str(out)]
        with pytest.MonkeyPatch.context() as patch:
            for name in ("LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "RANK"):
                patch.delenv(name, raising=False)
            if devices == 1:
                patch.setattr(sys, "argv", arguments)
                patch.setattr(sys, "path", list(sys.path))
                runpy.run_path(str(script), run_name="__main__")
            else:
                command = [sys.executable, *arguments]
                done = subprocess.run(command, capture_output=True, text=True, timeout=180)
                assert done.returncode == 0, done.stderr[-4000:]
        return out

    return run


def read(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mse", "fvu", "huber"])
def test_two_processes_give_what_one_gives(trained: Callable[[int], Path], kind: str) -> None:
    """The processes see windows of different lengths: a mean is taken over the tokens of both."""
    one = read(trained(1) / kind / "state-0.pt")
    two = [read(trained(2) / kind / f"state-{rank}.pt") for rank in range(2)]
    clocks = [name for name in one if name.endswith("tokens_since_fired")]
    lengths = 10 - torch.arange(30) % 5
    windows = TokenWindows(tokens=torch.zeros(30, 10, dtype=torch.int32), lengths=lengths.int(), bos=True)
    module = WindowModule(train=windows, batch_size=8, steps=6, seed=5)
    seen = torch.cat([module.indices(step) for step in range(6)])
    assert max(int(one[name].max()) for name in clocks) == int((lengths[seen] - 1).sum())
    for name, value in one.items():
        assert torch.equal(two[0][name], two[1][name]), f"the processes differ in {name}"
        if name in clocks:
            assert torch.equal(two[0][name], value), name
        else:
            torch.testing.assert_close(two[0][name], value, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
